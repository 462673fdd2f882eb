/* Time and random numbers of a simulated run, in the place of the system's: the same in each run of a seed.
 *
 * They hold where the environment has KVORUM_SIM_SEED, and for the main thread, on which all hosts live; RocksDB's
 * own threads keep the system's clock, by which they wait. What time it is, the simulator writes to the file
 * that KVORUM_SIM_CLOCK names then: nanoseconds since the run began. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

/* When every run begins, in seconds since 1970, and since the machine was started. */
enum { EPOCH_S = 1790000000, UPTIME_S = 1000 };

static int simulated;
static uint64_t state;
static volatile const uint64_t *elapsed_ns;

/* RocksDB numbers the files of a flush in the order of its pointers, so memory has to lie where it lies in each run:
 * the process begins anew once, with addresses that are not drawn. Where that is forbidden, runs are nearly equal. */
static void fix_addresses(char **arguments) {
    int now = personality(0xffffffff);
    if (now < 0 || (now & ADDR_NO_RANDOMIZE) != 0 || personality((unsigned long)now | ADDR_NO_RANDOMIZE) < 0)
        return;
    execv("/proc/self/exe", arguments);
}

__attribute__((constructor)) static void begin(int count, char **arguments) {
    (void)count;
    const char *seed = getenv("KVORUM_SIM_SEED");
    if (seed == NULL)
        return;
    fix_addresses(arguments);
    int file = memfd_create("clock", 0);
    if (file < 0 || ftruncate(file, sizeof(uint64_t)) != 0)
        abort();
    void *page = mmap(NULL, sizeof(uint64_t), PROT_READ, MAP_SHARED, file, 0);
    if (page == MAP_FAILED)
        abort();
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
    setenv("KVORUM_SIM_CLOCK", path, 1);
    elapsed_ns = page;
    state = strtoull(seed, NULL, 10);
    simulated = 1;
}

static int is_simulated(void) {
    static __thread int is_main = -1;
    if (!simulated)
        return 0;
    if (is_main < 0)
        is_main = syscall(SYS_gettid) == getpid();
    return is_main;
}

/* splitmix64 */
static uint64_t next(void) {
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

ssize_t getrandom(void *buffer, size_t bytes, unsigned flags) {
    if (!is_simulated())
        return syscall(SYS_getrandom, buffer, bytes, flags);
    for (size_t at = 0; at < bytes; at += sizeof(uint64_t)) {
        uint64_t drawn = next();
        size_t left = bytes - at;
        memcpy((char *)buffer + at, &drawn, left < sizeof(drawn) ? left : sizeof(drawn));
    }
    return (ssize_t)bytes;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int is_wall = clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE;
    int is_steady = clock == CLOCK_MONOTONIC || clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_MONOTONIC_RAW ||
                    clock == CLOCK_BOOTTIME;
    if ((!is_wall && !is_steady) || !is_simulated())
        return (int)syscall(SYS_clock_gettime, clock, now);
    uint64_t elapsed = *elapsed_ns;
    now->tv_sec = (is_wall ? EPOCH_S : UPTIME_S) + (time_t)(elapsed / 1000000000u);
    now->tv_nsec = (long)(elapsed % 1000000000u);
    return 0;
}

/* RocksDB stamps its files with it, on whichever thread makes them. */
time_t time(time_t *out) {
    time_t now = EPOCH_S;
    if (!simulated) {
        struct timespec real;
        syscall(SYS_clock_gettime, CLOCK_REALTIME, &real);
        now = real.tv_sec;
    }
    if (out != NULL)
        *out = now;
    return now;
}

/* std::random_device, which asks the processor and not the system. */
unsigned _ZNSt13random_device9_M_getvalEv(void *device) {
    static unsigned count;
    (void)device;
    if (!simulated) {
        unsigned drawn = 0;
        syscall(SYS_getrandom, &drawn, sizeof(drawn), 0);
        return drawn;
    }
    return __atomic_add_fetch(&count, 1, __ATOMIC_RELAXED) * 0x9e3779b9u;
}
