# The binary is static: the image holds it, certificates for HTTPS, and a folder.
# Images are pinned by their digests; the tags say what they are.
FROM golang:1.26.5-bookworm@sha256:551752d3ad9de9923190bf5280500617ed8fee287ffb4b0220e770ef89346258 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# What /version and "pricemill version" say: docker build --build-arg VERSION=1.2.3
ARG VERSION=
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-X github.com/pricemill/pricemill/cmd.version=$VERSION" \
      -o /out/pricemill ./cmd/pricemill && \
    mkdir /out/data
# The certificates are Mozilla's, whose licence Debian's package has.
RUN mkdir /out/licenses && cp cmd/notices.txt /out/licenses/pricemill.txt && \
      cp /usr/share/doc/ca-certificates/copyright /out/licenses/ca-certificates.txt

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/licenses /licenses
COPY --from=build /out/pricemill /pricemill
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
# Whoever runs the image says HTTP_ALLOW_REMOTE=true, and publishes the port no
# further than is meant.
ENV DATA_DIR=/data HTTP_ADDR=0.0.0.0:8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["/pricemill", "health"]
ENTRYPOINT ["/pricemill"]
CMD ["serve"]
