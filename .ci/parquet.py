"""Reads Parquet files of the program, and writes some for it; see .ci/parquet."""

import contextlib
import io
import json
import re
import subprocess
import sys
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import duckdb
import pandas

work = Path(sys.argv[1])


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


# Newest first, as the program lists them.
WANT = [
    ("EXACT", "csv", Decimal("123456789012345678.123456789012345678"), at("2024-01-02T03:04:05.999999")),
    ("EXACT", "csv", Decimal("0.000000000000000001"), at("2024-01-02T03:04:05.000001")),
    ("EXACT", "csv", Decimal("-36.98"), at("2020-04-20T00:00:00")),
    ("EXACT", "csv", Decimal("185.75"), at("1871-01-01T00:00:00")),
]


def check(what, got, want):
    if got != want:
        sys.exit(f"{what}:\ngot  {got}\nwant {want}")


def exact(what, values):
    for value in values:
        if value is not None and not isinstance(value, Decimal):
            sys.exit(f"{what}: {value!r} is a {type(value)}, no decimal")


def read():
    for name in ["command", "prices-history"]:
        file = work / f"{name}.parquet"
        frame = pandas.read_parquet(file)
        check(f"columns of {name}", list(frame.columns), ["symbol", "provider", "price", "timestamp", "received_at"])
        exact(name, frame["price"])
        check(f"{name} by pandas", [(r.symbol, r.provider, r.price, r.timestamp.to_pydatetime()) for r in frame.itertuples()], WANT)
        check(f"type of times in {name}", str(frame["timestamp"].dtype.tz), "UTC")
        relation = duckdb.sql(f"SELECT symbol, provider, price, timestamp FROM '{file}'")
        check(f"types of {name}", [str(t) for t in relation.types], ["VARCHAR", "VARCHAR", "DECIMAL(36,18)", "TIMESTAMP WITH TIME ZONE"])
        rows = [(s, p, d, t.astimezone(timezone.utc)) for s, p, d, t in relation.fetchall()]
        check(f"{name} by DuckDB", rows, WANT)
    averages = duckdb.sql(f"SELECT value FROM '{work}/prices-moving-average-history.parquet'").fetchall()
    exact("averages", [value for (value,) in averages])
    check("the oldest average", averages[-1][0], Decimal("185.75"))
    candles = pandas.read_parquet(work / "candles.parquet")
    check("days", [str(t) for t in candles["timestamp"]], ["2024-01-02 00:00:00+00:00", "2020-04-20 00:00:00+00:00", "1871-01-01 00:00:00+00:00"])
    check("lows", list(candles["low"]), [Decimal("0.000000000000000001"), Decimal("-36.98"), Decimal("185.75")])
    check("volumes", list(candles["volume"]), [Decimal("0.1"), Decimal(2), Decimal(1)])


def write():
    """As people write them: floats and naive times by pandas, decimals by DuckDB."""
    pandas.DataFrame({
        "symbol": ["AAPL", "AAPL", "AAPL"], "close": [185.75, None, 186.1],
        "time": pandas.to_datetime(["2024-01-02 16:00", "2024-01-03 16:00", "2024-01-04 16:00"]),
    }).to_parquet(work / "pandas.parquet")
    duckdb.sql("SELECT 'CL=F' AS symbol, CAST(-36.98 AS DECIMAL(9, 2)) AS price, TIMESTAMPTZ '2020-04-20 18:30:00+00' AS time "
               f"UNION ALL SELECT 'CL=F', 0.316, TIMESTAMPTZ '2020-04-21 18:30:00+00'").write_parquet(str(work / "duckdb.parquet"), compression="zstd")


def counts():
    for name, want in {"pandas": 2, "duckdb": 2}.items():
        summary = json.loads((work / f"{name}.json").read_text())
        check(f"quotes of {name}", (summary["new"], summary["bad"]), (want, 0))


def document():
    """Runs docs/pandas.md, with the service at the address that follows the folder."""
    url, names, output = sys.argv[3], {}, ""
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```$", Path("docs/pandas.md").read_text(), re.M | re.S):
        block = block.replace("http://127.0.0.1:8000", url)
        if language == "text":
            check("output in docs/pandas.md", output, block)
            output = ""
            continue
        check("output that docs/pandas.md leaves out", output, "")
        if language == "sh":
            output = subprocess.run(["bash", "-euc", block], check=True, stdout=subprocess.PIPE, text=True).stdout
        else:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(block, names)
            output = printed.getvalue()
    check("output that docs/pandas.md leaves out", output, "")


if sys.argv[2] == "write":
    read()
    write()
elif sys.argv[2] == "document":
    document()
else:
    counts()
