#!/usr/bin/env bash
# A sweep and a service on Kubernetes, from an empty cluster with GPU nodes to an encoder that answers. From the
# repository's folder, with docker, helm and kubectl, which speaks to the cluster. REGISTRY is where images go:
#
#     REGISTRY=registry.example.com/lab examples/kubernetes.sh
#
# OVERLAY=cpu does it without GPUs. Each step may be run again.
set -euo pipefail
: "${REGISTRY:?where images are pushed to, such as registry.example.com/lab}"
OVERLAY=${OVERLAY:-gpu}

# The image. The judge has one of its own, with vLLM: --build-arg EXTRAS=bundled,hub,judge (not needed below).
if [ "$OVERLAY" = gpu ]; then device=cuda; else device=cpu; fi
docker build --build-arg "DEVICE=$device" --tag "$REGISTRY/bae-ray:$device" .
docker push "$REGISTRY/bae-ray:$device"

# KubeRay's operator, in the release that the resources were checked against.
helm repo add kuberay https://ray-project.github.io/kuberay-helm/
helm upgrade --install kuberay-operator kuberay/kuberay-operator --version 1.7.0 \
  --namespace kuberay-system --create-namespace --wait

# An overlay of your own on one of ours: here the images; a storage class, sizes, and names of nodes go there too.
deploy/kubernetes/secrets.sh
mkdir -p deploy/kubernetes/overlays/mine
cat >deploy/kubernetes/overlays/mine/kustomization.yaml <<END
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../$OVERLAY]
images:
  - {name: REGISTRY/bae-ray, newName: $REGISTRY/bae-ray}
  - {name: REGISTRY/bae-ray-judge, newName: $REGISTRY/bae-ray-judge}
END

# The sweep. The job's log ends with its table.
kubectl apply -k deploy/kubernetes/overlays/mine --selector 'app.kubernetes.io/component in (common, sweep)'
kubectl wait --namespace bae-ray --for=create job/sweep --timeout=30m
kubectl wait --namespace bae-ray --for=jsonpath='{.status.jobStatus}'=SUCCEEDED rayjob/sweep --timeout=24h
kubectl logs --namespace bae-ray job/sweep --tail=40

# The service of what was trained, asked through a tunnel.
kubectl apply -k deploy/kubernetes/overlays/mine --selector 'app.kubernetes.io/component in (common, redis, encoders)'
kubectl wait --namespace bae-ray --for=condition=Ready rayservice/encoders --timeout=30m
kubectl port-forward --namespace bae-ray service/encoders-serve-svc 8000:8000 &
trap 'kill %1' EXIT
curl --silent --fail --retry 10 --retry-connrefused --retry-delay 1 \
  --header "Authorization: Bearer $(head -n 1 deploy/kubernetes/base/secrets/keys)" http://127.0.0.1:8000/v1/encoders
