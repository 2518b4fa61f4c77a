"""A Ceph object gateway: one monitor, one OSD and one radosgw, from the Debian packages.

Nothing of it is a system service and nothing is kept. `processes` holds `mon`, `osd` and
`radosgw`, each of which can be killed and started again.
https://docs.ceph.com/en/pacific/radosgw/config-ref/
"""

from __future__ import annotations

import json
import secrets
import socket
import struct
import uuid
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from servers.endpoint import Endpoint
from servers.process import Process, require_programs, run, temporary_folder
from servers.sockets import accepts_connections, answers_http, free_port

_CONFIGURATION = """\
[global]
fsid = {fsid}
# State and noise: all of it in one folder.
run_dir = {folder}
admin_socket = {folder}/$name.asok
crash_dir = {folder}
mon_data = {folder}/mon
osd_data = {folder}/osd
rgw_data = {folder}/rgw
log_to_file = false
log_to_stderr = true
mon_cluster_log_to_file = false
debug_rgw = 0
# Loopback, and the second protocol version alone.
mon_host = [v2:127.0.0.1:{mon_port}/0]
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
ms_bind_msgr1 = false
# No keys between the daemons. The last line belongs to it: with the default, radosgw hangs.
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
keyring = /dev/null
ms_mon_client_mode = crc
# One copy on one OSD, few placement groups, no manager.
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 4
osd_pool_default_pgp_num = 4
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
rgw_rados_pool_pg_num_min = 4
# A quick start, also on a disk that is nearly full.
paxos_propose_interval = 0.05
paxos_min_wait = 0.02
mon_data_avail_warn = 2
mon_data_avail_crit = 1
{object_store}

[mon.a]
public_addrv = [v2:127.0.0.1:{mon_port}/0]

[client.radosgw]
rgw_dns_name = localhost
rgw_gc_obj_min_wait = 30
rgw_gc_processor_period = 30
rgw_crypt_require_ssl = false
rgw_crypt_s3_kms_backend = testing
rgw_crypt_s3_kms_encryption_keys = {kms_key}=MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=
"""

KMS_KEY = "key-of-tests"
"""The id of the key that encrypts for who asks for `aws:kms`."""

_OBJECT_STORES = {
    # Twice the stored data is taken from memory, and a full store hangs instead of failing.
    "memstore": """\
osd_objectstore = memstore
memstore_device_bytes = 4294967296""",
    # A sparse file, which grows to what is stored.
    "bluestore": """\
osd_objectstore = bluestore
bluestore_block_size = 17179869184
osd_memory_target = 1073741824""",
}


@contextmanager
def serve(object_store: Literal["memstore", "bluestore"] = "memstore") -> Generator[Endpoint]:
    """Ceph with its blocks in memory (1.5 s to start, 2 GiB), or in a file (6 s, 16 GiB).

    Only the file survives a kill of the OSD.
    """
    require_programs("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin")
    mon_port = free_port()
    access_key, secret_key = f"tester-{secrets.token_hex(4)}", secrets.token_hex(20)
    with temporary_folder("ceph") as folder, ExitStack() as running:
        configuration = folder / "ceph.conf"
        _ = configuration.write_text(
            _CONFIGURATION.format(
                folder=folder,
                fsid=uuid.uuid4(),
                mon_port=mon_port,
                object_store=_OBJECT_STORES[object_store],
                kms_key=KMS_KEY,
            )
        )
        mon = running.enter_context(_mon(folder, mon_port))
        osd = running.enter_context(_osd(folder))
        _make_user(folder, access_key, secret_key)
        port = free_port()
        radosgw = running.enter_context(_radosgw(folder, port))
        yield Endpoint(
            kind="ceph",
            url=f"http://127.0.0.1:{port}",
            access_key=access_key,
            secret_key=secret_key,
            processes={"mon": mon, "osd": osd, "radosgw": radosgw},
        )


def _mon(folder: Path, port: int) -> Process:
    """Listening is enough: whoever asks it something waits until it is its own leader."""
    (folder / "mon").mkdir()
    _ = run(_command(folder, "ceph-mon", "-i", "a", "--mkfs"), folder)
    command = _command(folder, "ceph-mon", "-i", "a", "-f")
    return Process("mon", command, folder, lambda: accepts_connections(port))


def _osd(folder: Path) -> Process:
    (folder / "osd").mkdir()
    identity = str(uuid.uuid4())
    _ = run(_command(folder, "ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity), folder)
    _ = run(_command(folder, "ceph", "osd", "new", identity, "0"), folder)
    command = _command(folder, "ceph-osd", "-i", "0", "-f")
    return Process("osd", command, folder, lambda: _osd_state(folder) == "active")


def _make_user(folder: Path, access_key: str, secret_key: str) -> None:
    keys = ["--access-key", access_key, "--secret-key", secret_key]
    user = ["--uid", "tester", "--display-name", "tester"]
    _ = run(_command(folder, "radosgw-admin", "user", "create", *user, *keys), folder)


def _radosgw(folder: Path, port: int) -> Process:
    # Without tcp_nodelay a reply with a body takes 45 ms instead of 4.
    frontend = f"--rgw_frontends=beast endpoint=127.0.0.1:{port} tcp_nodelay=1"
    command = _command(folder, "radosgw", "-n", "client.radosgw", "-f", frontend)
    return Process("radosgw", command, folder, lambda: answers_http(port))


def _command(folder: Path, program: str, *arguments: str) -> list[str]:
    return [program, "-c", str(folder / "ceph.conf"), *arguments]


def _osd_state(folder: Path) -> str:
    """What the OSD says of itself on its admin socket, or "" while it says nothing."""
    with socket.socket(socket.AF_UNIX) as admin:
        try:
            admin.connect(str(folder / "osd.0.asok"))
            admin.sendall(b'{"prefix": "status"}\0')
            with admin.makefile("rb") as reply:
                (length,) = struct.unpack(">I", reply.read(4))
                return json.loads(reply.read(length))["state"]
        except (OSError, struct.error, json.JSONDecodeError):
            return ""  # not listening yet, or not yet knowing the command
