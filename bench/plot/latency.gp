set title sprintf("One hot prompt, %d clients: latency in ms", clients)
set style data histograms
set style fill solid 0.9 noborder
set logscale y
set yrange [0.01:]
set xtics rotate by -30
set key outside top center horizontal
set xrange [-0.6:*]
plot for [i = 2:columns] data using i:xtic(1) title columnheader(i) lc rgb word("#aed6f1 #5499c7 #1a5276", i - 1)
