#!/bin/sh
# Prints the rules of deploy/prometheus/rules as PrometheusRules, for the Prometheus operator:
#
#   deploy/kubernetes/prometheus-rules.sh | kubectl apply --namespace credit-service -f -
#
# Kustomize cannot place a file inside a resource, and a copy would differ one day.
set -eu
cd "$(dirname "$0")/../prometheus/rules"

for file in *.yml; do
  printf -- '---\napiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n'
  printf '  name: credit-service-%s\n  labels:\n    app.kubernetes.io/name: credit-service\nspec:\n' "${file%.yml}"
  sed 's/^\(..*\)/  \1/' "$file"
done
