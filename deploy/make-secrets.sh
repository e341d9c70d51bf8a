#!/bin/sh
# Creates the secrets that docker-compose.yml mounts, in deploy/secrets, which git ignores.
# Keeps existing secrets.
set -eu
cd "$(dirname "$0")"
mkdir -p secrets
# Containers run as other users, so the files are readable to all; the folder is not.
chmod 700 secrets

random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

make_secret() {
  [ -e "secrets/$1" ] || { printf '%s' "$2" > "secrets/$1"; chmod 644 "secrets/$1"; echo "made deploy/secrets/$1"; }
}

make_secret postgres_password "$(random)"
make_secret database_url \
  "postgresql://credit:$(cat secrets/postgres_password)@postgres:5432/credit_service"
make_secret console_secret "$(random)"
make_secret grafana_password "$(random)"
