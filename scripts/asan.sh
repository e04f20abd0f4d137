#!/usr/bin/env bash
#
# Runs the regression and isolation tests on a library that "make asan" has had
# built with AddressSanitizer and UndefinedBehaviorSanitizer.  The server is
# not built so: their runtime is preloaded, and memory that the server never
# frees is no leak of ours.  What they find ends the server, so a test fails.
set -euo pipefail

# At its start the runtime looks for this symbol.  Not to find it makes libc
# translate a message, which can hang: where the first malloc() of the process
# comes from bindtextdomain(), as in Debian's server, libc holds that lock.
echo 'void swift_demangle(void) {}' | "${CC:-gcc}" -shared -x c -o "$HOME/symbol.so" -

SERVER_PRELOAD="$("${CC:-gcc}" -print-file-name=libasan.so) $HOME/symbol.so"
export SERVER_PRELOAD
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:abort_on_error=1
export UBSAN_OPTIONS=print_stacktrace=1:abort_on_error=1
export SUITES="regress isolation"
exec scripts/check.sh
