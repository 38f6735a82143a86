#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
# Measure the branches of payload/, library/ and module_utils/ that the unit tests take, as root; or
# those that its arguments, a command, take. Two hours; the report is .cache/coverage/report.txt.
#
# The tests start the programs as users do, so each Python process must measure itself. Python loads
# coverage.py from its own packages' folders, which have it in a mount namespace only. The shim
# (`python3 -S`) loads no packages, so it isn't measured; a process that is killed reports nothing.
set -eu
cd "$(dirname "$0")/.."
folder=$PWD/.cache/coverage
rm -rf "$folder"
mkdir -p "$folder/package" "$folder/data"
chmod 1777 "$folder/data"
.venv/bin/pip install -qq --disable-pip-version-check --target "$folder/package" \
    -r requirements-coverage.txt
cat >"$folder/rc" <<END
[run]
branch = True
parallel = True
data_file = $folder/data/run
source = $PWD/payload
    $PWD/library
    $PWD/module_utils
disable_warnings = no-data-collected, module-not-measured, module-not-imported
[paths]
# one package, which is there for dom0's programs and for the qubes'
format = $PWD/payload/backup_format
    $PWD/payload/*/backup_format
[report]
precision = 1
END
# COVERAGE_PROCESS_START isn't enough: most programs start without the tests' environment.
cat >"$folder/package/measure.pth" <<END
import measure
END
cat >"$folder/package/measure.py" <<END
import coverage, os
os.environ["COVERAGE_PROCESS_START"] = "$folder/rc"
coverage.process_startup()
del os.environ["COVERAGE_PROCESS_START"]
END
[ $# -gt 0 ] || set -- tools/unit.sh
system=/usr/lib/python3/dist-packages
own=$(.venv/bin/python -c 'import pytest, os; print(os.path.dirname(os.path.dirname(pytest.__file__)))')
status=0
# shellcheck disable=SC2016 # for the inner shell
unshare --mount sh -c '
    for place in "$2" "$3"; do
        mount -t overlay -o "lowerdir=$1:$place" overlay "$place"
    done
    shift 3
    exec "$@"' sh "$folder/package" "$system" "$own" "$@" || status=$?
export PYTHONPATH="$folder/package"
.venv/bin/python -m coverage combine -q --rcfile="$folder/rc" "$folder/data"
.venv/bin/python -m coverage report --rcfile="$folder/rc" >"$folder/report.txt"
tail -n 1 "$folder/report.txt"
exit "$status"
