# SPDX-License-Identifier: GPL-3.0-or-later
"""For all tests: signals as in an ordinary session, also under nohup, `&` or a CI runner."""

import signal

# Programs inherit what is ignored, and many tests are about what a hang-up or a ^C does.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
