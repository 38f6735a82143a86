# SPDX-License-Identifier: GPL-3.0-or-later
"""dedup-store: official Qubes OS backup streams in a deduplicating repository.

cli.py calls an action; the action has repository/ open the repository and give an engine; runs/
brings the engine and archive/, the format, together.

What lies in the repository, per run (one stored backup):

- **payload objects**, numbered from 0: what the archive's chunks carry, without the wrapping,
  contiguous per volume. A volume of 16 MiB or more has an object of its own, the smaller ones of a
  qube share one, and qubes share one while it is smaller than 1 MiB.
- one **manifest object**, written last, which makes the run: one line of JSON (archive/manifest.py)
  and then the **recipe** (archive/recipe.py): every byte that isn't in a payload object. Both are
  small and always read together, so they share an object and one start of the engine.

How objects map to engines, and why (figures: 2 cores, restic 0.14, borg 1.2):

- restic: one snapshot for all payload objects of a run, as one file, and one for the manifest.
  restic stores one stream per process, and each start costs 0.5 s (its key derivation), and more
  with a large index. `dump` reads a file only from its beginning, so single objects are read
  through `restic mount`, which reads the chunks that are wanted. Payloads carry a constant time and
  file name, so an unchanged one has a known tree and costs one snapshot file of about 300 bytes.
- borg: one archive for all payload objects of a run, each a file in it, and one for the manifest.
  borg rewrites its list of archives at each commit, so an archive per volume would cost more with
  every run. Constant names and times again: an unchanged payload archive costs about 1.4 kB.
- directory: a folder per run, with a plain file per object. It shares blocks with the newest whole
  run's object that begins alike, where the file system can, so an unchanged one costs none.

A reader takes the mapping of volumes to objects from the manifest; so the writer's rule above may
change without a new format. Nothing is tagged, renamed or rewritten after it was stored. Objects
of a run without a manifest (a killed `put`) are leftovers: they carry the run's name and time.
"""

VERSION = "0.1.0"
