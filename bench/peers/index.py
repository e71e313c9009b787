"""Graph indexes of other projects over the same vectors: `index.py FOLDER M EF_CONSTRUCTION THREADS NAME...`

FOLDER holds `keys.f32` [n, dim], `queries.f32` [q, dim] and `truth.u32` [q, k]: for each query the entries with the largest
inner products. Each peer runs in a process of its own and prints one line of JSON: seconds to build with THREADS threads,
growth of resident memory for each entry, and for each breadth of the search, on one thread, recall and times.
"""

import json
import multiprocessing
import sys
import time

import numpy as np


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def hnswlib_index(dim, n, m, ef_construction, threads):
    import hnswlib

    index = hnswlib.Index("ip", dim)
    index.init_index(n, ef_construction=ef_construction, M=m)
    index.set_num_threads(threads)

    def search(query, k, ef):
        index.set_ef(ef)
        return index.knn_query(query, k, num_threads=1)[0][0]

    return index.add_items, search


def faiss_index(dim, n, m, ef_construction, threads, scalar=None):
    import faiss

    faiss.omp_set_num_threads(threads)
    product = faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexHNSWFlat(dim, m, product) if scalar is None else faiss.IndexHNSWSQ(dim, scalar, m, product)
    index.hnsw.efConstruction = ef_construction

    def add(keys):
        index.train(keys)
        index.add(keys)
        faiss.omp_set_num_threads(1)

    def search(query, k, ef):
        index.hnsw.efSearch = ef
        return index.search(query, k)[1][0]

    return add, search


def faiss_sq8_index(*arguments):
    import faiss

    return faiss_index(*arguments, scalar=faiss.ScalarQuantizer.QT_8bit)


def usearch_index(dim, n, m, ef_construction, threads, dtype="f16"):
    import usearch.index

    index = usearch.index.Index(ndim=dim, metric="ip", dtype=dtype, connectivity=m, expansion_add=ef_construction)

    def search(query, k, ef):
        index.expansion_search = ef
        return index.search(query[0], k, threads=1).keys

    return lambda keys: index.add(np.arange(len(keys)), keys, threads=threads), search


def usearch_f32_index(*arguments):
    return usearch_index(*arguments, dtype="f32")


PEERS = {
    "hnswlib": hnswlib_index,
    "faiss": faiss_index,
    "faiss-sq8": faiss_sq8_index,
    "usearch-f16": usearch_index,
    "usearch-f32": usearch_f32_index,
}


def measure(name, folder, m, ef_construction, threads):
    queries = np.fromfile(f"{folder}/queries.f32", "<f4")
    truth = np.fromfile(f"{folder}/truth.u32", "<u4")
    with open(f"{folder}/dim") as file:
        dim = int(file.read())
    queries = queries.reshape(-1, dim)
    truth = truth.reshape(len(queries), -1)
    k = truth.shape[1]
    keys = np.fromfile(f"{folder}/keys.f32", "<f4").reshape(-1, dim)
    before = resident()
    try:
        add, search = PEERS[name](dim, len(keys), m, ef_construction, threads)
    except ImportError as error:
        print(json.dumps({"name": name, "missing": str(error)}), flush=True)
        return
    start = time.perf_counter()
    add(keys)
    build = time.perf_counter() - start
    grown = (resident() - before) / len(keys)
    rows = []
    ef = 64
    while ef <= 4096:
        times, found = [], 0
        for query, wanted in zip(queries, truth):
            start = time.perf_counter()
            got = search(query[None], k, ef)
            times.append(time.perf_counter() - start)
            found += len(np.intersect1d(got, wanted))
        p50, p99 = np.percentile(times, [50, 99]) * 1e6
        rows.append({"ef": ef, "recall": found / truth.size, "p50_us": p50, "p99_us": p99})
        if found / truth.size >= 0.99:
            break
        ef = int(round(ef * 2**0.5 / 8) * 8)
    result = {"name": name, "build_seconds": build, "bytes_per_entry": grown, "rows": rows}
    print(json.dumps(result), flush=True)


def main():
    folder, m, ef_construction, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    for name in sys.argv[5:]:
        process = multiprocessing.get_context("spawn").Process(
            target=measure, args=(name, folder, m, ef_construction, threads)
        )
        process.start()
        process.join()
        if process.exitcode != 0:
            print(json.dumps({"name": name, "missing": f"it ended with {process.exitcode}"}), flush=True)


if __name__ == "__main__":
    main()
