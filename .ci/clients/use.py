"""Uses the Python client that openapi-python-client makes of the API's document.

Takes the service's address and an API key of the scope command.
"""

import sys

from pricemill_client import AuthenticatedClient
from pricemill_client.api.jobs import create_polling_job, get_polling_job, stop_polling_job
from pricemill_client.api.prices import get_latest_price, list_prices
from pricemill_client.models import Error, PollAccepted, PollRequest, Price, PriceHistory


def main(url: str, key: str) -> None:
    with AuthenticatedClient(base_url=url, token=key) as client:
        latest = get_latest_price.sync(client=client, symbol="AAPL")
        assert isinstance(latest, Price) and latest.symbol == "AAPL" and latest.price > 0, latest
        assert latest.timestamp.tzinfo is not None, latest

        # Page by page. This generator reads decimals as floats of 64 bits.
        cursor, prices = None, []
        while True:
            more = {} if cursor is None else {"cursor": cursor}
            page = list_prices.sync(client=client, symbol="EXACT", provider="csv", limit=2, **more)
            assert isinstance(page, PriceHistory), page
            prices += [item.price for item in page.items]
            cursor = page.next_cursor or None
            if cursor is None:
                break
        assert prices == [0.1, 123456789012345678.123456789012345678, 0.000000000000000001], prices

        body = PollRequest(symbols=["MSFT"], interval=3600)
        created = create_polling_job.sync_detailed(client=client, body=body, idempotency_key="python-client")
        assert isinstance(created.parsed, PollAccepted), created
        again = create_polling_job.sync(client=client, body=body, idempotency_key="python-client")
        assert isinstance(again, PollAccepted) and again.job_id == created.parsed.job_id, again
        job = get_polling_job.sync(created.parsed.job_id, client=client, after=created.headers["X-Log-Position"], wait="10s")
        assert job.job_id == created.parsed.job_id, job
        assert stop_polling_job.sync_detailed(created.parsed.job_id, client=client).status_code == 202

        missing = get_polling_job.sync_detailed("poll_missing1", client=client)
        assert missing.status_code == 404 and isinstance(missing.parsed, Error), missing


if __name__ == "__main__":
    main(*sys.argv[1:])
