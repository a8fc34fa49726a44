"""What a client that is not ours sees: codes, messages, streams. Ends non-zero at the first thing that is not so."""

import argparse
import threading

import grpc
from google.protobuf.empty_pb2 import Empty

from corriente.v1 import corriente_pb2 as own
from corriente.v1 import corriente_pb2_grpc as own_grpc
from spdkrpc import spdk_pb2 as spdk
from spdkrpc import spdk_pb2_grpc as spdk_grpc

LIMIT_S = 60


def refused(code, words, call, request):
    """The call fails with this code and a message that has these words."""
    try:
        answer = call(request, timeout=LIMIT_S)
    except grpc.RpcError as error:
        assert error.code() == code, (error.code(), error.details())
        assert words in error.details(), (words, error.details())
        return
    raise AssertionError(f"answered {answer!r}")


def check_errors(node, disk):
    invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    refused(invalid, "name", node.ReplicaCreate, spdk.ReplicaCreateRequest(lvs_name=disk, spec_size=1 << 20))
    refused(invalid, "name", node.ReplicaCreate, spdk.ReplicaCreateRequest(name="a/b", lvs_name=disk, spec_size=1 << 20))
    refused(invalid, "spec_size", node.ReplicaCreate, spdk.ReplicaCreateRequest(name="r", lvs_name=disk))
    refused(missing, "ghost", node.ReplicaGet, spdk.ReplicaGetRequest(name="ghost"))
    refused(missing, "ghost", node.EngineGet, spdk.EngineGetRequest(name="ghost"))
    create = spdk.EngineCreateRequest(name="e", volume_name="v", spec_size=1 << 20, replica_address_map={"r": ""})
    refused(invalid, "replica_address_map", node.EngineCreate, create)
    refused(grpc.StatusCode.UNIMPLEMENTED, "", node.ShardGroupList, Empty())
    assert not node.ReplicaList(Empty(), timeout=LIMIT_S).replicas
    assert not node.EngineList(Empty(), timeout=LIMIT_S).engines


def check_watch(node, disk):
    """A watcher learns of a change, and cancelling it is no error of anybody."""
    stream = node.ReplicaWatch(Empty())
    seen = threading.Event()

    def watch():
        try:
            for _ in stream:
                seen.set()
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.CANCELLED, error

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    request = spdk.ReplicaCreateRequest(name="vol-r-1", lvs_name=disk.name, lvs_uuid=disk.uuid, spec_size=1 << 20, port_count=1)
    # The watch may begin after the first change.
    while not seen.is_set():
        created = node.ReplicaCreate(request, timeout=LIMIT_S)
        assert (created.state, created.error_msg) == ("running", ""), created
        node.ReplicaDelete(spdk.ReplicaDeleteRequest(name="vol-r-1", cleanup_required=True), timeout=LIMIT_S)
        seen.wait(1)
    stream.cancel()
    watcher.join(LIMIT_S)
    assert not watcher.is_alive()


def check_own(node):
    about = node.NodeInfo(Empty(), timeout=LIMIT_S)
    assert about.version and about.spdk_version and about.reactors, about
    refused(grpc.StatusCode.NOT_FOUND, "ghost", node.MirrorGet, own.MirrorGetRequest(engine_name="ghost"))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node", required=True)
    parser.add_argument("--work", required=True)
    given = parser.parse_args()
    # Clients in the field ping at least every 10 s, also without a call.
    channel = grpc.insecure_channel(
        given.node, options=[("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_permit_without_calls", 1)])
    node = spdk_grpc.SPDKServiceStub(channel)
    path = f"{given.work}/disk.img"
    with open(path, "wb") as file:
        file.truncate(1 << 30)
    request = spdk.DiskCreateRequest(disk_name="disk", disk_path=path, block_size=512, disk_driver="aio")
    node.DiskCreate(request, timeout=LIMIT_S)
    disk = spdk.Disk()
    while disk.state != "ready":
        disk = node.DiskGet(spdk.DiskGetRequest(disk_name="disk"), timeout=LIMIT_S)
        assert disk.state in ("creating", "ready"), disk
    check_errors(node, disk.name)
    check_watch(node, disk)
    check_own(own_grpc.CorrienteServiceStub(channel))
    health = channel.unary_unary("/grpc.health.v1.Health/Check")
    assert health(b"", timeout=LIMIT_S) == b"\x08\x01", "not SERVING"


if __name__ == "__main__":
    main()
