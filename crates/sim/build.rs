//! Builds what stands in the place of the system's clock and random numbers, and links it into the
//! simulator alone.

fn main() {
    println!("cargo::rerun-if-changed=src/system.c");
    cc::Build::new().file("src/system.c").warnings_into_errors(true).cargo_metadata(false).compile("system");
    let dir = std::env::var("OUT_DIR").unwrap_or_default();
    println!("cargo::rustc-link-search=native={dir}");
    // All of it: what refers to these functions does so weakly, or by name while it runs.
    println!("cargo::rustc-link-lib=static:+whole-archive=system");
    for name in ["getrandom", "clock_gettime", "time"] {
        println!("cargo::rustc-link-arg-bins=-Wl,--export-dynamic-symbol={name}");
    }
}
