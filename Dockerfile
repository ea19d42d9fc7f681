# syntax=docker/dockerfile:1
# The image of the node plugin: one static binary, the certificates of public registries, and nothing to log in to.

FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY cmd cmd
COPY pkg pkg
ARG TARGETOS=linux
ARG TARGETARCH
ARG VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/usr/local/bin/model-csi ./cmd/model-csi

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title="model-csi" \
      org.opencontainers.image.description="Kubernetes CSI node plugin that mounts AI models as read-only volumes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/model-csi/model-csi" \
      org.opencontainers.image.version="$VERSION"
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/ /
# Root, because mounting needs it.
USER 0:0
ENTRYPOINT ["/usr/local/bin/model-csi"]
CMD ["node"]
