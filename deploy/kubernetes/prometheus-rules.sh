#!/bin/sh
# Prints the rules of deploy/prometheus/rules as PrometheusRules, for the Prometheus operator:
#
#   deploy/kubernetes/prometheus-rules.sh | kubectl apply --namespace credit-service -f -
#
# RUNBOOKS is the address of the published documentation (`make docs`), to which each alert links:
#
#   RUNBOOKS=https://docs.example.com/credit-service deploy/kubernetes/prometheus-rules.sh
#
# Without it, the links use the external label credit_runbooks of that Prometheus.
#
# Kustomize cannot place a file inside a resource, and a copy would differ one day.
set -eu
cd "$(dirname "$0")/../prometheus/rules"

for file in *.yml; do
  printf -- '---\napiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n'
  printf '  name: credit-service-%s\n  labels:\n    app.kubernetes.io/name: credit-service\nspec:\n' "${file%.yml}"
  sed -e 's/^\(..*\)/  \1/' \
    -e "s|{{ \$externalLabels.credit_runbooks }}|${RUNBOOKS:-&}|" "$file"
done
