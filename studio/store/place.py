"""Where a home lies, as far as that can harm it: network drives and synchronised folders."""

from __future__ import annotations

from pathlib import Path

import psutil

from studio.paths import expanded

# File systems that another machine serves. SQLite's locks do not hold on all of them, and "written"
# can mean that it is on its way.
# fmt: off
NETWORK_SYSTEMS = frozenset((
    "9p", "afpfs", "afs", "ceph", "cifs", "davfs", "fuse.davfs2", "fuse.glusterfs", "fuse.rclone",
    "fuse.s3fs", "fuse.sshfs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs3", "nfs4", "smb3",
    "smbfs", "webdav",
))
# fmt: on
# What synchronising programs call their folders, or begin to call them; in lower case.
SYNCHRONISED_NAMES = {
    "dropbox": "Dropbox",
    "onedrive": "OneDrive",
    "google drive": "Google Drive",
    "googledrive": "Google Drive",
    "icloud drive": "iCloud Drive",
    "iclouddrive": "iCloud Drive",
    "mobile documents": "iCloud Drive",
    "nextcloud": "Nextcloud",
    "owncloud": "ownCloud",
}
# What they leave in the folder that they synchronise.
SYNCHRONISED_MARKS = {
    ".dropbox": "Dropbox",
    ".dropbox.cache": "Dropbox",
    ".stfolder": "Syncthing",
    ".tmp.drivedownload": "Google Drive",
    ".sync_*.db": "Nextcloud",
    "._sync_*.db": "ownCloud",
}


def warning(home: Path) -> str:
    """A sentence about what can go wrong with a home where it lies, or nothing."""
    home = expanded(home).resolve()
    program = _synchronised_by(home)
    if program:
        return (
            f"{home} seems to be synchronised by {program}, which copies files while they are "
            "being written: a copy can be broken, and what comes back from elsewhere can harm the "
            "original. Keep the studio in a folder that is not synchronised (--home FOLDER)."
        )
    system = _network_system(home)
    if system:
        return (
            f"{home} is on a network drive ({system}). Picks and pictures are safest on a disk of "
            "this machine (--home FOLDER): over a network, a broken connection can damage the "
            "database. Never open it from two machines at once."
        )
    return ""


def _network_system(home: Path) -> str:
    """The kind of network file system that holds `home`, or nothing."""
    if str(home).startswith("\\\\"):  # a Windows share by its name
        return "a Windows share"
    holding, system = "", ""
    for disk in psutil.disk_partitions(all=True):
        holds = home.is_relative_to(disk.mountpoint) and len(disk.mountpoint) >= len(holding)
        if holds:  # of two on one place, the later one hides the earlier
            remote = "remote" in disk.opts.split(",") or disk.fstype.lower() in NETWORK_SYSTEMS
            holding, system = disk.mountpoint, (disk.fstype or "remote") if remote else ""
    return system


def _synchronised_by(home: Path) -> str:
    for folder in (home, *home.parents):
        name = folder.name.lower()
        for begins, program in SYNCHRONISED_NAMES.items():
            # "OneDrive - My Firm", "Dropbox (Old)", and macOS's "GoogleDrive-me@example.org"
            if name == begins or name.startswith((f"{begins} ", f"{begins}-")):
                return program
        for mark, program in SYNCHRONISED_MARKS.items():
            try:
                found = next(folder.glob(mark), None)
            except OSError:  # a folder that may not be looked into
                continue
            if found is not None:
                return program
    return ""
