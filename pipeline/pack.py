"""Pack a folder of videos or pictures into an LMDB, one file that a network file system likes better than many.

    python -m pipeline.pack videos packed
    python -m pipeline.pack more_videos packed            # adds to it

Writes packed/data.mdb as ClipBERT's file2lmdb does: a file's bytes under its name without the ending. Files in
subfolders keep the folder's name in the key, so that two of one name do not collide. As a dataset it is read like a
folder: set download.*.source: directory, and .folder and .media so that they lead to `packed`. Needs
requirements-lmdb.txt.
"""

import argparse
from pathlib import Path

from pipeline.dataset.sources.lmdb import keys_for, pack, videos_in
from pipeline.process import progress
from pipeline.process.command import guarded, parser


def main() -> None:
    options = _options()
    with guarded("pack", kept="the files written so far"):
        if not options.folder.is_dir():
            raise ValueError(f"{options.folder}: no such folder")
        files = keys_for(videos_in(options.folder), options.folder)
        if not files:
            raise ValueError(f"{options.folder} has no videos")
        with progress.bar(total=len(files), desc="pack", unit="file") as bar:
            written, kept = pack(files, options.store, force=options.force, watch=bar.update)
        print(f"pack: {written} files written, {kept} were there already, see {options.store / 'data.mdb'}")


def _options() -> argparse.Namespace:
    typed = parser("pipeline.pack", __doc__)
    typed.add_argument("folder", type=Path, metavar="FOLDER", help="of the videos; those in its subfolders too")
    typed.add_argument("store", type=Path, metavar="DIR", help="of the LMDB; one that exists is added to")
    typed.add_argument("--force", action="store_true", help="replace what the LMDB has under the same key")
    return typed.parse_args()


if __name__ == "__main__":
    main()
