"""Reads what Prometheus says of the rules and queries of docs/, for .ci/monitoring.

evaluated          each rule was evaluated, without an error (rules on stdin)
quiet              no alert is pending or fires (rules on stdin)
noticed ALERT      that alert is pending or fires (rules on stdin)
queries URL FILE   each query of a Grafana dashboard is answered, by series where the
                   service has them
"""

import json
import re
import sys
import urllib.parse
import urllib.request

# Of what a service without Kafka and Redis has nothing.
ABSENT = re.compile(r"pricemill_(relay|redis)_")


def rules():
    answer = json.load(sys.stdin)
    return [rule for group in answer["data"]["groups"] for rule in group["rules"]]


def evaluated():
    for rule in rules():
        if rule["health"] != "ok":
            sys.exit(f"{rule['name']}: {rule['health']} {rule.get('lastError', '')}")


def quiet():
    loud = [rule["name"] for rule in rules() if rule["state"] != "inactive"]
    if loud:
        sys.exit(f"not quiet though the service is well: {loud}")


def noticed(alert):
    if not any(rule["name"] == alert and rule["state"] != "inactive" for rule in rules()):
        sys.exit(f"{alert} is inactive")


def queries(url, file):
    with open(file, encoding="utf-8") as dashboard:
        panels = json.load(dashboard)["panels"]
    asked = 0
    for panel in panels:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "1m")
            with urllib.request.urlopen(url + "/api/v1/query?" + urllib.parse.urlencode({"query": expression})) as response:
                answer = json.load(response)
            if answer["status"] != "success" or not answer["data"]["result"] and not ABSENT.search(expression):
                sys.exit(f"{panel['title']}: {expression}: {answer}")
            asked += 1
    print(f"{asked} queries are answered")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
