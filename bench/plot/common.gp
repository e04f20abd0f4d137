# What the plots share.  bench/report sets data, out, columns.
set terminal svg size 860,480 font "sans-serif,13" background "white"
set output out
set datafile separator "\t"
set datafile missing "-"
set key outside right top Left reverse noenhanced
set rmargin 10
set grid ytics lt 1 lw 0.5 lc rgb "#cccccc"
set border 3
set tics nomirror
set xtics noenhanced
colour(i) = word("#c0392b #e67e22 #8e44ad #2c3e50 #2980b9 #16a085 #7f8c8d #b7950b #5d6d7e #d98880 #76d7c4 #a9cce3", i)
