"""A client that knows nothing of Kvorum but its .proto file: Python's grpcio with the usual retry policy.

writer.py ADDRESS PROTO_DIR: eight writers, each with a connection of its own, write until standard input ends.
Then one line of JSON says what they saw.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time

WRITERS = 8
PAUSE_SECONDS = 0.005
TIMEOUT_SECONDS = 5
RETRIES = {
    "methodConfig": [
        {
            "name": [{"service": "kv.v1.Kv"}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}


def stubs(protos):
    """Generates the code for kv.v1, as its users do, and imports it."""
    out = tempfile.mkdtemp(prefix="kvorum-stubs-")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", protos]
    command += ["--python_out", out, "--grpc_python_out", out, os.path.join(protos, "kv/v1/kv.proto")]
    subprocess.run(command, check=True)
    sys.path.insert(0, out)
    from kv.v1 import kv_pb2, kv_pb2_grpc

    return kv_pb2, kv_pb2_grpc


def main():
    address, protos = sys.argv[1:]
    kv_pb2, kv_pb2_grpc = stubs(protos)
    import grpc

    options = [
        ("grpc.service_config", json.dumps(RETRIES)),
        ("grpc.enable_retries", 1),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    stop = threading.Event()
    begun = time.monotonic()
    seen = {"writes": 0, "slowest_ms": 0.0, "failures": []}
    lock = threading.Lock()

    def write(number):
        with grpc.insecure_channel(address, options=options) as channel:
            kv = kv_pb2_grpc.KvStub(channel)
            written = 0
            while not stop.is_set():
                called = time.monotonic()
                key = f"python/{begun}/{number}/{written}".encode()
                failure = None
                try:
                    kv.Set(kv_pb2.SetRequest(key=key, value=b"value"), timeout=TIMEOUT_SECONDS)
                except grpc.RpcError as error:
                    failure = f"{called - begun:.2f} s: {error.code().name}: {error.details()}"
                took = (time.monotonic() - called) * 1000
                written += 1
                with lock:
                    seen["writes"] += 1
                    seen["slowest_ms"] = max(seen["slowest_ms"], took)
                    if failure:
                        seen["failures"].append(failure)
                time.sleep(PAUSE_SECONDS)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps(seen), flush=True)


main()
