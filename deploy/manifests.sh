#!/bin/sh
# Write deploy/kubernetes/millrace.yaml from the chart: what `helm template` makes of it, under a line
# that names the chart's files by their digest. Needs helm 3, in $HELM or on the PATH.
set -eu
cd "$(dirname "$0")"
helm="${HELM:-helm}"
"$helm" lint --strict --quiet helm/millrace --kube-version 1.37.0
made=$("$helm" template fraud helm/millrace --kube-version 1.37.0)
chart=$(cd helm/millrace && find . -type f | LC_ALL=C sort | xargs cat | sha256sum | cut -c1-64)
printf '# Written by deploy/manifests.sh from the chart in helm/millrace, %s\n%s\n' \
  "sha256 $chart" "$made" >kubernetes/millrace.yaml
