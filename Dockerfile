# The binary is static: the image needs nothing but certificates and a user.
FROM golang:1.26.0-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -o /pricemill ./cmd/pricemill && mkdir /data

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /pricemill /pricemill
COPY --from=build --chown=nonroot:nonroot /data /data
ENV DATA_DIR=/data HTTP_ADDR=0.0.0.0:8000
VOLUME /data
EXPOSE 8000
ENTRYPOINT ["/pricemill"]
CMD ["serve"]
