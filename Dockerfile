# One image for the node, the operator and the tools.
#
#   docker build -t localhost/kvorum:dev .
#   buildah bud --build-arg BINARIES=build -t localhost/kvorum:dev .
#
# (buildah does not see by a default alone that a stage is used.)
#
# Binaries that were built outside, for this platform and Debian 12's C library or an older one, save
# the compilation: --build-arg BINARIES=prebuilt --build-arg BINARIES_DIR=target/image
#
# The images that it begins with are tags, which their makers move. Who wants the same bytes again names a digest:
#   --build-arg RUNTIME_IMAGE=gcr.io/distroless/cc-debian12@sha256:…
ARG BINARIES=build
ARG BUILD_IMAGE=rust:1.95-bookworm
ARG RUNTIME_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
RUN apt-get update && apt-get install -y --no-install-recommends clang libclang-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p kvorum-node -p kvorum-operator -p kvorum-cli -p kvorum-kubectl --bins \
 && mkdir /binaries \
 && cp target/release/kvorum-node target/release/kvorum-operator target/release/kvorum target/release/kubectl-kvorum \
      /binaries/

FROM scratch AS prebuilt
ARG BINARIES_DIR=target/image
COPY ${BINARIES_DIR}/ /binaries/

FROM ${BINARIES} AS binaries

FROM ${RUNTIME_IMAGE}
ARG VERSION=dev
ARG REVISION=unknown
ARG SOURCE=https://github.com/kvorum/kvorum
LABEL org.opencontainers.image.title="Kvorum" \
      org.opencontainers.image.description="A strongly consistent, replicated key-value store for Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
COPY --from=binaries /binaries/ /usr/local/bin/
USER 65532:65532
ENTRYPOINT []
CMD ["kvorum-node"]
