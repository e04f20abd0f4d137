set title "One hot prompt: counts a second"
set xlabel "clients"
set logscale xy
set xtics (1, 4, 16, 64)
set xrange [0.9:72]
set rmargin -1
set format y "%.0s%c"
plot for [i = 2:columns] data using 1:i title columnheader(i) \
	with linespoints lc rgb colour(i - 1) lw (i <= bold + 1 ? 3 : 1.2) pt i ps 0.7
