#!/bin/sh
# doxygen_filter.sh FILE: the header as Doxygen reads it: <name>, std::vector<S> and \d in comments are text, not commands.
sed -E '/^ *\/\/\//{s/\\/\\\\/g;s/</\&lt;/g}' "$1"
