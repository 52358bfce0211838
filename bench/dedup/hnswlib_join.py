"""Finds near pairs with hnswlib: the other side of bench/dedup.

    python hnswlib_join.py VECTORS.f32 PAIRS.i32 WIDTH THREADS THRESHOLD

Prints the seconds that building and searching took together. Settings are
those of the Go graph: M 16, ef_construction 64, ef 64, 32 neighbours of each.
"""
import sys
import time

import hnswlib
import numpy

vectors, out, width, threads, threshold = sys.argv[1:]
x = numpy.fromfile(vectors, dtype="<f4").reshape(-1, int(width))
start = time.time()
index = hnswlib.Index(space="ip", dim=x.shape[1])
index.init_index(max_elements=len(x), M=16, ef_construction=64, random_seed=1)
index.set_num_threads(int(threads))
index.add_items(x)
index.set_ef(64)
labels, distances = index.knn_query(x, k=32)
rows, places = numpy.nonzero(1 - distances >= float(threshold) - 1e-6)
cols = labels[rows, places].astype(numpy.int32)
rows = rows.astype(numpy.int32)
keep = rows != cols
pairs = numpy.stack([rows[keep], cols[keep]], axis=1)
seconds = time.time() - start
pairs.astype("<i4").tofile(out)
print(seconds)
