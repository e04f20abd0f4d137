set title "Migration: seconds over legacy rows"
set xlabel "rows"
set logscale xy
set rmargin -1
set format x "%.0s%c"
plot for [i = 2:columns] data using 1:i title columnheader(i) \
	with linespoints lc rgb colour(i - 1) lw (i <= bold + 1 ? 3 : 1.2) pt i ps 0.7
