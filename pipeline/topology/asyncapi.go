package topology

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/pricemill/pricemill/schema"
)

// AsyncAPI is the AsyncAPI 3.0 document of the log, made of what the parts declare:
// a channel for each topic, whose address is its name in the cluster, and an
// operation for each component and topic that it consumes from or produces to.
func AsyncAPI(parts []Component, addresses map[schema.Topic]string, version string) ([]byte, error) {
	if version == "" {
		version = "dev"
	}
	channels, messages, operations := map[string]any{}, map[string]any{}, map[string]any{}
	for _, t := range schema.EventTypes() {
		topic, _ := schema.TopicOf(t)
		channel, known := channels[string(topic)].(map[string]any)
		if !known {
			address := addresses[topic]
			if address == "" {
				address = string(topic)
			}
			channel = map[string]any{"address": address, "messages": map[string]any{}}
			channels[string(topic)] = channel
		}
		channel["messages"].(map[string]any)[string(t)] = reference("components", "messages", string(t))
		message, err := messageOf(t)
		if err != nil {
			return nil, err
		}
		messages[string(t)] = message
	}
	for _, p := range parts {
		for action, types := range map[string][]schema.EventType{"receive": p.Consumes, "send": p.Produces} {
			for _, topic := range topicsOf(types) {
				var these []any
				for _, t := range types {
					if of, _ := schema.TopicOf(t); of == topic {
						these = append(these, reference("channels", string(topic), "messages", string(t)))
					}
				}
				operations[string(p.Kind)+"."+p.Name+"."+action+"."+string(topic)] = map[string]any{
					"action": action, "summary": p.Doc, "channel": reference("channels", string(topic)), "messages": these}
			}
		}
	}
	document, err := json.Marshal(map[string]any{
		"asyncapi": "3.0.0",
		"info": map[string]any{"title": "Pricemill", "version": version,
			"description": "The log of pricemill: CloudEvents 1.0 in binary mode on Kafka."},
		"defaultContentType": "application/json",
		"channels":           channels, "operations": operations, "components": map[string]any{"messages": messages},
	})
	if err != nil {
		return nil, fmt.Errorf("writing the AsyncAPI document: %w", err)
	}
	return document, nil
}

// messageOf describes the events of a type: their headers as CloudEvents has them,
// and their payload, of which a plugin may say nothing.
func messageOf(t schema.EventType) (map[string]any, error) {
	message := map[string]any{
		"name": string(t), "contentType": "application/json",
		"headers": map[string]any{"type": "object",
			"required": []string{"ce_id", "ce_source", "ce_specversion", "ce_type", "ce_time", "ce_subject"},
			"properties": map[string]any{
				"ce_id": text("Identifies the fact: an event that is there twice has the same one."), "ce_source": text("Who published it."),
				"ce_specversion": map[string]any{"const": "1.0"}, "ce_type": map[string]any{"const": string(t)},
				"ce_time":    map[string]any{"type": "string", "format": "date-time", "description": "When the fact came about."},
				"ce_subject": text("The key of the record."), "traceparent": text("W3C trace context.")}},
	}
	document, known := schema.JSONSchema(t)
	if !known {
		message["payload"] = map[string]any{"type": "object"}
		return message, nil
	}
	var payload map[string]any
	if err := json.Unmarshal(document, &payload); err != nil {
		return nil, fmt.Errorf("reading the JSON Schema of %s: %w", t, err)
	}
	message["title"], message["summary"] = payload["title"], payload["description"]
	delete(payload, "$id") // two documents must not have one
	delete(payload, "$schema")
	message["payload"] = map[string]any{"schemaFormat": "application/schema+json;version=draft-2020-12", "schema": payload}
	return message, nil
}

func text(description string) map[string]any {
	return map[string]any{"type": "string", "description": description}
}

// reference points to a place in the document.
func reference(parts ...string) map[string]any {
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	escaped := slices.Clone(parts)
	for i := range escaped {
		escaped[i] = escape.Replace(escaped[i])
	}
	return map[string]any{"$ref": "#/" + strings.Join(escaped, "/")}
}
