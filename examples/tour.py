#!/usr/bin/python3
"""A mirrored volume, a backup of it, and a disaster-recovery volume that follows it, over gRPC alone."""

import argparse
import os
import sys
import time

import grpc
from google.protobuf.empty_pb2 import Empty

from corriente.v1 import corriente_pb2 as own
from corriente.v1 import corriente_pb2_grpc as own_grpc
from spdkrpc import spdk_pb2 as spdk
from spdkrpc import spdk_pb2_grpc as spdk_grpc

SIZE = 64 << 20
CALL_LIMIT_S = 60
WAIT_LIMIT_S = 300


class Node:
    """One node: both of its services."""

    def __init__(self, address):
        self.address = address
        channel = grpc.insecure_channel(address)
        self.spdk = spdk_grpc.SPDKServiceStub(channel)
        self.own = own_grpc.CorrienteServiceStub(channel)


def wait(what, probe):
    """Calls probe() until it returns something, and returns that."""
    deadline = time.monotonic() + WAIT_LIMIT_S
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(0.2)
    sys.exit(f"tour: gave up waiting: {what}")


def make_disk(node, name, path):
    with open(path, "wb") as file:
        file.truncate(1 << 30)
    request = spdk.DiskCreateRequest(disk_name=name, disk_path=path, block_size=512, disk_driver="aio")
    node.spdk.DiskCreate(request, timeout=CALL_LIMIT_S)
    get = spdk.DiskGetRequest(disk_name=name)

    def is_ready():
        disk = node.spdk.DiskGet(get, timeout=CALL_LIMIT_S)
        if disk.state == "error":
            sys.exit(f"tour: disk {name} of {node.address} cannot be used")
        return disk if disk.state == "ready" else None

    return wait(f"disk {name} of {node.address}", is_ready)


def make_volume(engine_node, volume, frontend, places):
    """A replica on each place, and an engine over them."""
    addresses = {}
    for index, (node, disk) in enumerate(places):
        name = f"{volume}-r-{index:08x}"
        request = spdk.ReplicaCreateRequest(
            name=name, lvs_name=disk.name, lvs_uuid=disk.uuid, spec_size=SIZE, port_count=5)
        replica = node.spdk.ReplicaCreate(request, timeout=CALL_LIMIT_S)
        addresses[name] = f"{replica.ip}:{replica.port_start}"
    request = spdk.EngineCreateRequest(
        name=f"{volume}-e-0", volume_name=volume, spec_size=SIZE, replica_address_map=addresses, frontend=frontend)
    engine = engine_node.spdk.EngineCreate(request, timeout=CALL_LIMIT_S)
    if engine.state != "running":
        sys.exit(f"tour: engine {engine.name} is {engine.state}: {engine.error_msg}")
    return engine


def delete_volume(engine_node, volume, places):
    engine_node.spdk.EngineDelete(spdk.EngineDeleteRequest(name=f"{volume}-e-0"), timeout=CALL_LIMIT_S)
    for index, (node, _) in enumerate(places):
        request = spdk.ReplicaDeleteRequest(name=f"{volume}-r-{index:08x}", cleanup_required=True)
        node.spdk.ReplicaDelete(request, timeout=CALL_LIMIT_S)


def back_up(node, volume, snapshot, backup, target):
    engine = f"{volume}-e-0"
    node.spdk.EngineSnapshotCreate(
        spdk.SnapshotRequest(name=engine, snapshot_name=snapshot, user_created=True), timeout=CALL_LIMIT_S)
    request = spdk.BackupCreateRequest(
        engine_name=engine, volume_name=volume, snapshot_name=snapshot, backup_name=backup, backup_target=target,
        size=SIZE, compression_method="lz4")
    started = node.spdk.EngineBackupCreate(request, timeout=CALL_LIMIT_S)

    def is_over():
        request = spdk.BackupStatusRequest(
            backup=backup, engine_name=engine, replica_address=started.replica_address)
        status = node.spdk.EngineBackupStatus(request, timeout=CALL_LIMIT_S)
        if status.error:
            sys.exit(f"tour: backup {backup} failed: {status.error}")
        return status if status.state == "complete" else None

    status = wait(f"backup {backup}", is_over)
    print(f"backup {backup}: {'incremental' if started.is_incremental else 'full'}, {status.backup_url}")
    return status.backup_url


def restore(node, volume, url, backup):
    engine = f"{volume}-e-0"
    answer = node.spdk.EngineBackupRestore(
        spdk.EngineBackupRestoreRequest(engine_name=engine, backup_url=url), timeout=CALL_LIMIT_S)
    if answer.errors:
        sys.exit(f"tour: the restore of {backup} was refused: {dict(answer.errors)}")

    def is_over():
        answer = node.spdk.EngineRestoreStatus(spdk.RestoreStatusRequest(engine_name=engine), timeout=CALL_LIMIT_S)
        for replica in answer.status.values():
            if replica.error:
                sys.exit(f"tour: the restore of {backup} failed on {replica.replica_name}: {replica.error}")
        done = all(not replica.is_restoring and replica.last_restored == backup for replica in answer.status.values())
        return answer if answer.status and done else None

    wait(f"the restore of {backup}", is_over)
    # What longhorn#10139 broke: snapshots that follow the restore, and members with bdevs that are open.
    found = node.spdk.EngineGet(spdk.EngineGetRequest(name=engine), timeout=CALL_LIMIT_S)
    members = node.own.MirrorGet(own.MirrorGetRequest(engine_name=engine), timeout=CALL_LIMIT_S).members
    assert len(found.snapshots) == 1 and next(iter(found.snapshots)).startswith("restore-"), found.snapshots
    assert members and all(member.bdev_name and member.mode == spdk.RW for member in members), members
    print(f"restored {backup}: snapshots {sorted(found.snapshots)}, bdevs {[member.bdev_name for member in members]}")


def digest(node, volume):
    """The SHA-256 of what each replica holds; all must agree."""
    request = own.VolumeChecksumRequest(engine_name=f"{volume}-e-0", members=True)
    *_, last = node.own.VolumeChecksum(request, timeout=WAIT_LIMIT_S)
    assert last.result.equal, last.result
    return last.result.digest


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node", action="append", required=True, help="ip:port of a node's gRPC; twice")
    parser.add_argument("--work", required=True, help="a directory for disks and backups, seen by all nodes")
    given = parser.parse_args()
    if len(given.node) != 2:
        parser.error("two nodes are needed")
    return given


def main():
    given = arguments()
    work = os.path.abspath(given.work)
    target = f"vfs://{work}/backups"
    os.makedirs(f"{work}/backups", exist_ok=True)
    first, second = (Node(address) for address in given.node)
    for node in (first, second):
        about = node.own.NodeInfo(Empty(), timeout=CALL_LIMIT_S)
        print(f"node {node.address}: Corriente {about.version}, SPDK {about.spdk_version}")

    disks = [make_disk(node, "tour", f"{work}/disk{index}.img") for index, node in enumerate((first, second))]
    places = list(zip((first, second), disks))
    source = make_volume(first, "tour-source", "spdk-tcp-nvmf", places)
    print(f"volume {source.volume_name}: {source.target_ip}:{source.target_port}, {dict(source.replica_address_map)}")
    make_volume(second, "tour-dr", "", places)

    for round in (1, 2):
        url = back_up(first, "tour-source", f"s{round}", f"tour-backup-{round}", target)
        restore(second, "tour-dr", url, f"tour-backup-{round}")
    digests = digest(first, "tour-source"), digest(second, "tour-dr")
    assert digests[0] == digests[1], digests
    print(f"equal: {digests[0]}")

    delete_volume(second, "tour-dr", places)
    delete_volume(first, "tour-source", places)
    for node, disk in places:
        node.spdk.DiskDelete(spdk.DiskDeleteRequest(disk_name=disk.name, disk_uuid=disk.uuid), timeout=CALL_LIMIT_S)


if __name__ == "__main__":
    main()
