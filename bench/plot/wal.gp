set title "One hot prompt: bytes of WAL a count"
set style data histograms
set style fill solid 0.9 noborder
set yrange [0:]
set xtics rotate by -30
set key outside top center horizontal
set xrange [-0.6:*]
plot for [i = 2:columns] data using i:xtic(1) title columnheader(i) \
	lc rgb word("#aed6f1 #7fb3d5 #2e86c1 #1a5276", i - 1)
