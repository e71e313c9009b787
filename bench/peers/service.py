"""Milvus standalone, filled with the vectors of a folder, for `mnemon bench service`.

Starts a server, builds HNSW over the keys, finds the least `ef` that reaches the wanted recall, and writes the requests for all
queries as they go over the wire, so that one load generator can send them to either server. Then it says so in one line of JSON
and serves until its standard input is closed.

    python service.py FOLDER M EF_CONSTRUCTION K GOAL
"""

import json
import struct
import sys
import time
from pathlib import Path

import numpy
from milvus import MilvusServer
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema, connections
from pymilvus.client.prepare import Prepare

FIELD = "vector"
NAME = "bench"
INSERT = 20_000


def fill(keys, m, ef_construction):
    fields = [
        FieldSchema("id", DataType.INT64, is_primary=True, auto_id=False),
        FieldSchema(FIELD, DataType.FLOAT_VECTOR, dim=keys.shape[1]),
    ]
    collection = Collection(NAME, CollectionSchema(fields), consistency_level="Eventually")
    start = time.time()
    for at in range(0, len(keys), INSERT):
        part = keys[at : at + INSERT]
        collection.insert([list(range(at, at + len(part))), part])
    collection.flush()
    params = {"M": m, "efConstruction": ef_construction}
    collection.create_index(FIELD, {"index_type": "HNSW", "metric_type": "IP", "params": params})
    collection.load()
    return collection, time.time() - start


def param(ef):
    return {"metric_type": "IP", "params": {"ef": ef}}


def recall(collection, queries, truth, k, ef):
    found = 0
    for at in range(0, len(queries), 100):
        answers = collection.search(queries[at : at + 100], FIELD, param(ef), limit=k, consistency_level="Eventually")
        for ids, wanted in zip((hits.ids for hits in answers), truth[at : at + 100]):
            found += len(set(ids) & set(wanted.tolist()))
    return found / truth.size


def main():
    folder, (m, ef_construction, k), goal = Path(sys.argv[1]), map(int, sys.argv[2:5]), float(sys.argv[5])
    dim = int((folder / "dim").read_text())
    keys = numpy.fromfile(folder / "keys.f32", dtype="<f4").reshape(-1, dim)
    queries = numpy.fromfile(folder / "queries.f32", dtype="<f4").reshape(-1, dim)
    truth = numpy.fromfile(folder / "truth.u32", dtype="<u4").reshape(-1, k)
    server = MilvusServer()
    server.set_base_dir(str(folder / "milvus"))
    server.start()
    try:
        connections.connect(host="127.0.0.1", port=server.listen_port)
        collection, seconds = fill(keys, m, ef_construction)
        ef = 64
        while (reached := recall(collection, queries, truth, k, ef)) < goal and ef < 4096:
            ef = round(ef * 2**0.5 / 8) * 8
        with (folder / "requests.bin").open("wb") as out:
            for query in queries:
                request = Prepare.search_requests_with_expr(
                    NAME, [query], FIELD, param(ef), k, guarantee_timestamp=1, consistency_level=3, use_default_consistency=False
                )
                request = request[0] if isinstance(request, (list, tuple)) else request
                data = request.SerializeToString()
                out.write(struct.pack("<I", len(data)) + data)
        told = {"port": server.listen_port, "ef": ef, "recall": reached, "build_seconds": seconds}
        print(json.dumps(told), flush=True)
        sys.stdin.read()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
