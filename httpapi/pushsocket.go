package httpapi

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"

	"github.com/pricemill/pricemill/projections/live"
)

// maxSocketRead is what a client may send over a WebSocket: it has nothing to say.
const maxSocketRead = 512

// wantsSocket reports whether a client asks for a WebSocket, and refuses one that does not
// do so as RFC 6455 has it. An Upgrade that is no handshake is left alone, as HTTP wants.
func wantsSocket(r *http.Request) (bool, error) {
	keys := r.Header.Values("Sec-WebSocket-Key")
	if len(keys) == 0 || r.Method != http.MethodGet || !hasToken(r.Header.Values("Upgrade"), "websocket") ||
		!hasToken(r.Header.Values("Connection"), "upgrade") {
		return false, nil
	}
	key, err := base64.StdEncoding.DecodeString(keys[0])
	if err != nil || len(key) != 16 || len(keys) > 1 || r.Header.Get("Sec-WebSocket-Version") != "13" || !r.ProtoAtLeast(1, 1) {
		return false, newError(codeBadRequest, "Not a WebSocket handshake of version 13")
	}
	return true, nil
}

func hasToken(values []string, token string) bool {
	for _, value := range values {
		for part := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}

// pushOverSocket sends each event as a text message: {"event":…,"id":…,"data":…}.
func (a *API) pushOverSocket(w http.ResponseWriter, r *http.Request, stream LiveStream) {
	// Which pages may connect was decided before, as for all routes: see checkOrigin.
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return // it has answered
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(maxSocketRead)
	ctx, stop := a.whileAllowed(conn.CloseRead(context.WithoutCancel(r.Context())), r)
	defer stop()
	heartbeat := time.NewTicker(a.config.pushHeartbeat())
	defer heartbeat.Stop()
	var text []byte
	for {
		events, err := stream.Next(ctx, heartbeat.C)
		if err != nil {
			switch {
			case errors.Is(context.Cause(ctx), errNotAllowed):
				_ = conn.Close(websocket.StatusPolicyViolation, errNotAllowed.Error())
			case ctx.Err() == nil:
				a.logEnd(r, err)
				_ = conn.Close(endStatus(err), fmt.Sprintf("connect again in %d ms", comeBack().Milliseconds()))
			}
			return
		}
		spans := a.tracePush(r, events)
		for _, e := range events {
			text = fmt.Appendf(text[:0], `{"event":%q,"id":%q,"data":`, e.Name, e.ID)
			text = append(append(text, e.Data.Text(a.renderPush)...), '}')
			if sendMessage(ctx, conn, text) != nil {
				spans.end(false)
				return
			}
		}
		spans.end(true)
		if len(events) == 0 && sendMessage(ctx, conn, fmt.Appendf(text[:0], `{"event":"heartbeat","id":%q}`, stream.ID())) != nil {
			return
		}
	}
}

func endStatus(err error) websocket.StatusCode {
	if errors.Is(err, live.ErrEnded) {
		return websocket.StatusGoingAway
	}
	return websocket.StatusTryAgainLater
}

func sendMessage(ctx context.Context, conn *websocket.Conn, text []byte) error {
	ctx, cancel := context.WithTimeout(ctx, pushWriteTimeout)
	defer cancel()
	return conn.Write(ctx, websocket.MessageText, text)
}
