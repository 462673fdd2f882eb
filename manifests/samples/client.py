"""A program that speaks gRPC to a KvCluster with TLS and users, by Python's grpcio.

    pip install grpcio grpcio-tools
    python -m grpc_tools.protoc -I proto --python_out . --grpc_python_out . proto/kv/v1/kv.proto
    python client.py demo:2379 /var/run/secrets/kvorum.io

The directory has `ca.crt`, the CA of the cluster, and what proves who this is: `token`, of a ServiceAccount, or
`tls.crt` with `tls.key`. Pods for both are beside this file.
"""

import pathlib
import sys

import grpc
from kv.v1 import kv_pb2, kv_pb2_grpc

KEY = b"app/greeting"
TIMEOUT_SECONDS = 5


class ServiceAccount(grpc.AuthMetadataPlugin):
    """Sends the token with each call. Its file is read each time, since kubelet renews it."""

    def __init__(self, path):
        self.path = path

    def __call__(self, context, callback):
        callback((("token", self.path.read_text().strip()),), None)


def channel(address, directory):
    """A channel to a member, by what the directory has."""
    ca = (directory / "ca.crt").read_bytes()
    token = directory / "token"
    if token.exists():
        tls = grpc.ssl_channel_credentials(ca)
        account = grpc.metadata_call_credentials(ServiceAccount(token))
        return grpc.secure_channel(address, grpc.composite_channel_credentials(tls, account))
    key, certificate = (directory / "tls.key").read_bytes(), (directory / "tls.crt").read_bytes()
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca, key, certificate))


def main():
    address, directory = sys.argv[1:]
    with channel(address, pathlib.Path(directory)) as connection:
        store = kv_pb2_grpc.KvStub(connection)
        request = kv_pb2.SetRequest(key=KEY, value=b"hello")
        written = store.Set(request, timeout=TIMEOUT_SECONDS, wait_for_ready=True)
        read = store.Get(kv_pb2.GetRequest(key=KEY), timeout=TIMEOUT_SECONDS)
        revision = written.header.revision
        print(f"{KEY.decode()} is {read.kv.value.decode()} as of revision {revision}")


if __name__ == "__main__":
    main()
