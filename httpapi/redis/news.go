package redis

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// commits is the channel of what processes commit.
const commits = "commits"

// Tell tells the other processes that something was committed. They look by themselves too:
// an error means that they do so later.
func (c *Client) Tell(ctx context.Context) error {
	return c.do(ctx, func(ctx context.Context) error { return c.redis.Publish(ctx, c.prefix+commits, c.id).Err() })
}

// Hear calls heard each time that another process has committed something, and after each
// time that it could not be told, until ctx is done.
func (c *Client) Hear(ctx context.Context, heard func()) {
	subscription := c.redis.Subscribe(ctx, c.prefix+commits)
	defer func() { _ = subscription.Close() }()
	news := subscription.ChannelWithSubscriptions()
	for {
		select {
		case <-ctx.Done():
			return
		case message, open := <-news:
			if !open {
				return
			}
			if m, is := message.(*redis.Message); !is || m.Payload != c.id {
				heard()
			}
		}
	}
}
