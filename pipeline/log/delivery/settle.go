package delivery

import (
	"context"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Settle waits for the Ack or Nack of a message. After the end of its session, which the
// handler is told by the message's context, it waits for the grace only.
func Settle(session context.Context, msg *message.Message, grace time.Duration) (acked, settled bool) {
	select {
	case <-msg.Acked():
		return true, true
	case <-msg.Nacked():
		return false, true
	case <-session.Done():
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-msg.Acked():
		return true, true
	case <-msg.Nacked():
		return false, true
	case <-timer.C:
		return false, false
	}
}

// AwaitStragglers waits until the batches of earlier sessions are acked or nacked. Those
// that are not when ctx is done are returned with its cause.
func AwaitStragglers(ctx context.Context, log *slog.Logger, stragglers []*message.Message) ([]*message.Message, error) {
	for ; len(stragglers) > 0; stragglers = stragglers[1:] {
		log.Warn("waiting for a batch of an earlier session", slog.String("batch", stragglers[0].UUID))
		select {
		case <-stragglers[0].Acked():
		case <-stragglers[0].Nacked():
		case <-ctx.Done():
			return stragglers, context.Cause(ctx)
		}
	}
	return nil, nil
}
