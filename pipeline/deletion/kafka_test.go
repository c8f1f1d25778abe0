package deletion_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/pricemill/pricemill/pipeline"
	"github.com/pricemill/pricemill/pipeline/deletion"
	"github.com/pricemill/pricemill/pipeline/log"
	"github.com/pricemill/pricemill/pipeline/log/kafka"
	"github.com/pricemill/pricemill/pipeline/store"
	"github.com/pricemill/pricemill/schema"
)

// kindOf is a step without the name of a topic.
var kindOf = regexp.MustCompile(`( an empty)? [a-z-]+(\\.deletion)?$`)

var idOfTopic = regexp.MustCompile(`"topic_id":"[^"]*"`)

// Interrupted before steps of each kind, a deletion on Kafka that is run again comes to what one
// comes to that was not interrupted. Each record is at its place all the time, on the topic or in its
// complete copy; consumer groups keep their offsets, and topics their settings.
func TestADeletionOnKafkaIsInterrupted(t *testing.T) {
	t.Parallel()
	original := newDatabaseOn(t, true)
	prepareTopics(t, original)
	dir := t.TempDir()
	run := func(name string, stopAt int) (map[string]string, []string) {
		path := filepath.Join(dir, name)
		content, err := os.ReadFile(original)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, content, 0o600))
		require.NoError(t, os.CopyFS(logDir(path), os.DirFS(logDir(original))))
		stop := errors.New("stop")
		var steps []string
		r := open(t, path)
		defer func() { r.close() }()
		c := r.config(gone)
		c.Step = func(_ context.Context, step string) error {
			if steps = append(steps, step); len(steps) == stopAt {
				return stop
			}
			return nil
		}
		_, err = deletion.Run(t.Context(), c)
		if stopAt > 0 {
			require.ErrorIs(t, err, stop)
			_, err = deletion.Run(t.Context(), r.config(gone))
		}
		require.NoError(t, err)
		return r.everything(), steps
	}
	want, steps := run("whole", 0)
	t.Logf("%d steps: %q", len(steps), steps)
	first, last := map[string]int{}, map[string]int{}
	for i, step := range steps {
		kind := kindOf.ReplaceAllString(step, "")
		if _, met := first[kind]; !met {
			first[kind] = i + 1
		}
		last[kind] = i + 1
	}
	stops := slices.Collect(maps.Values(first))
	for _, n := range last {
		if !slices.Contains(stops, n) {
			stops = append(stops, n)
		}
	}
	for _, n := range slices.Sorted(slices.Values(stops)) {
		got, _ := run(fmt.Sprintf("stopped-%d", n), n)
		for name := range want {
			require.Equal(t, want[name], got[name], "%s, stopped before %q", name, steps[n-1])
		}
	}
}

// prepareTopics has a topic that begins later, one with settings of its own, and groups that have read.
func prepareTopics(t *testing.T, path string) {
	t.Helper()
	r := open(t, path)
	defer r.close()
	require.NoError(t, r.kafka.DeleteBefore(t.Context(), schema.PriceEvents, []int64{2, 0}))
	shape, err := r.kafka.Shape(t.Context(), schema.RawQuotes)
	require.NoError(t, err)
	shape.Settings["retention.ms"] = "9223372036854775"
	require.NoError(t, r.kafka.Finish(t.Context(), schema.RawQuotes, shape))
	for _, group := range []string{"ours.raw-store", "theirs"} {
		require.NoError(t, r.kafka.Commit(t.Context(), group, schema.RawQuotes, map[int32]int64{0: 3, 1: 0}))
	}
}

// everything is dump, and what the cluster has besides records.
func (r *rig) everything() map[string]string {
	r.t.Helper()
	all := r.dump()
	for _, name := range []string{"chains", "leases", "topics", "positions", "deletions"} { // they have ids of topics, and times
		delete(all, name)
	}
	for _, topic := range schema.Topics() {
		shape, err := r.kafka.Shape(r.t.Context(), topic)
		require.NoError(r.t, err)
		groups, err := r.kafka.GroupOffsets(r.t.Context(), topic)
		require.NoError(r.t, err)
		held, err := r.kafka.Offsets(r.t.Context(), topic)
		require.NoError(r.t, err)
		if topic == schema.PollingJobs {
			held = nil // the event may be on any partition
		}
		all["topic "+string(topic)] = idOfTopic.ReplaceAllString(all["topic "+string(topic)], "")
		all["shape of "+string(topic)] = fmt.Sprint(shape, groups, held)
		infos, err := r.kafka.Topics(r.t.Context(), []schema.Topic{topic, schema.Topic(deletion.CopyOf(string(topic)))})
		require.NoError(r.t, err)
		require.Len(r.t, infos, 1, "the copy is deleted")
	}
	var strange int
	require.NoError(r.t, r.db.Get(r.t.Context(), &strange, `SELECT COUNT(*) FROM positions p WHERE NOT EXISTS (SELECT 1 FROM topics t WHERE t.topic_id = p.topic_id)`))
	require.Zero(r.t, strange)
	return all
}

// What a deletion makes of the topics, held against what was there, record by record.
func TestWhatADeletionOnKafkaDoes(t *testing.T) {
	t.Parallel()
	path := newDatabaseOn(t, true)
	prepareTopics(t, path)
	r := open(t, path)
	defer r.close()
	was := r.records()
	before, err := r.db.Topics(t.Context())
	require.NoError(t, err)
	planned, err := deletion.NewPlan(t.Context(), r.config(gone))
	require.NoError(t, err)
	assert.Equal(t, was, r.records())
	assert.Equal(t, []schema.Topic{schema.FetchRequests, schema.PollingJobs, schema.PriceEvents, schema.RawQuotes, schema.StoredQuotes}, rewrittenOf(planned))
	assert.Contains(t, planned.Left, deletion.Left{What: "consumer group theirs", Why: "what it has read of [raw-quotes]"})
	done, err := deletion.Run(t.Context(), r.config(gone))
	require.NoError(t, err)
	assert.Equal(t, planned, done.Plan)

	is := r.records()
	replaced := 0
	for place, former := range was {
		now, there := is[place]
		require.True(t, there, place)
		subjects, _ := schema.SubjectsOf(former.Topic, former.Key, former.Headers, former.Value)
		now.TopicID = former.TopicID
		if !slices.ContainsFunc(subjects, gone.Holds) {
			require.Equal(t, former, now, place)
			continue
		}
		replaced++
		id, ok := deletion.Replaced(now.Headers, now.Value)
		require.True(t, ok, place)
		assert.Equal(t, done.DeletionID, id)
		assert.Nil(t, now.Key)
		assert.Equal(t, former.Timestamp, now.Timestamp)
	}
	assert.Equal(t, sumOf(planned.Records), int64(replaced))
	assert.Len(t, is, len(was)+1, "the event that says so")
	after, err := r.db.Topics(t.Context())
	require.NoError(t, err)
	for i, topic := range after {
		written := slices.Contains(rewrittenOf(planned), schema.Topic(topic.Name))
		assert.Equal(t, written, topic.ID != before[i].ID, "a topic without such data is not touched: %s", topic.Name)
		assert.Equal(t, before[i].Lineage(), topic.Lineage())
		assert.Equal(t, before[i].Epoch, topic.Epoch)
	}
	var recorded string
	require.NoError(t, r.db.Get(t.Context(), &recorded, `SELECT log FROM instance`))
	cluster, err := r.kafka.ClusterID(t.Context())
	require.NoError(t, err)
	assert.Equal(t, cluster, recorded)
	require.NoError(t, filepath.WalkDir(logDir(path), func(name string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(name)
		assert.NotContains(t, string(content), "answer of gone", name)
		return err
	}))
}

func rewrittenOf(p deletion.Plan) (topics []schema.Topic) {
	for _, r := range p.Rewritten {
		topics = append(topics, r.Topic)
	}
	return topics
}

func sumOf(counts map[schema.Topic]int64) (n int64) {
	for _, count := range counts {
		n += count
	}
	return n
}

// records are all there are, by their places.
func (r *rig) records() map[string]pipeline.Record {
	r.t.Helper()
	all := map[string]pipeline.Record{}
	for _, topic := range schema.Topics() {
		ranges, err := r.log.Offsets(r.t.Context(), topic)
		require.NoError(r.t, err)
		for part, held := range ranges {
			tp := pipeline.TopicPartition{Topic: topic, Partition: int32(part)}
			require.NoError(r.t, r.log.Read(r.t.Context(), tp, held.Oldest, held.End, func(records []pipeline.Record) error {
				for _, record := range records {
					all[fmt.Sprintf("%s@%d", tp, record.Offset)] = record
				}
				return nil
			}))
		}
	}
	return all
}

// A copy that is lost, or cut, before the topic was written again stops the deletion: it has the only
// records. A topic that got records since it was copied is copied again.
func TestADeletionOnKafkaLosesNothing(t *testing.T) {
	t.Parallel()
	path := newDatabaseOn(t, true)
	stop := errors.New("stop")
	stopped := func(r *rig, at string) {
		t.Helper()
		c := r.config(gone)
		c.Step = func(_ context.Context, step string) error {
			if step == at {
				return stop
			}
			return nil
		}
		_, err := deletion.Run(t.Context(), c)
		require.ErrorIs(t, err, stop)
	}
	r := open(t, path)
	defer r.close()
	stopped(r, "deleting fetch-requests")
	late := log.OutgoingRecord{Key: []byte("late"), Value: []byte("late"), Timestamp: at.Time}
	r.sendRecord(schema.FetchRequests, late)
	stopped(r, "creating fetch-requests")
	other := schema.Topic(deletion.CopyOf("fetch-requests"))
	infos, err := r.kafka.Topics(t.Context(), []schema.Topic{schema.FetchRequests, other})
	require.NoError(t, err)
	assert.Len(t, infos, 1, "the topic is deleted, and the copy is there")
	assert.Contains(t, infos, other)
	stopped(r, "writing raw-quotes")
	found := false
	for _, record := range r.records() {
		found = found || string(record.Value) == "late"
	}
	assert.True(t, found)
	require.NoError(t, r.kafka.Delete(t.Context(), schema.Topic(deletion.CopyOf("raw-quotes"))))
	_, err = deletion.Run(t.Context(), r.config(gone))
	require.ErrorIs(t, err, deletion.ErrRefused)
	require.ErrorContains(t, err, "is not the one that was written")
	var recorded string
	require.NoError(t, r.db.Get(t.Context(), &recorded, `SELECT log FROM instance`))
	assert.Equal(t, store.DeletionUnderWay, recorded)
}

// Where the cluster does not let the user do what is necessary, the deletion is refused before anything
// is changed.
func TestADeletionOnKafkaNeedsRights(t *testing.T) {
	t.Parallel()
	path := newDatabaseOn(t, true)
	prepareTopics(t, path)
	rights := []sarama.AclOperation{sarama.AclOperationRead, sarama.AclOperationWrite, sarama.AclOperationCreate, sarama.AclOperationDelete,
		sarama.AclOperationDescribe, sarama.AclOperationDescribeConfigs, sarama.AclOperationAlterConfigs}
	allow := func(resource sarama.AclResourceType, name string, operations ...sarama.AclOperation) *sarama.ResourceAcls {
		acls := &sarama.ResourceAcls{Resource: sarama.Resource{ResourceType: resource, ResourceName: name, ResourcePatternType: sarama.AclPatternLiteral}}
		for _, operation := range operations {
			acls.Acls = append(acls.Acls, &sarama.Acl{Principal: "User:ada", Host: "*", Operation: operation, PermissionType: sarama.AclPermissionAllow})
		}
		return acls
	}
	for _, lacking := range []sarama.AclOperation{sarama.AclOperationWrite, sarama.AclOperationCreate, sarama.AclOperationDelete, sarama.AclOperationAlterConfigs, sarama.AclOperationAny} {
		ofGroups := []sarama.AclOperation{sarama.AclOperationDescribe}
		if lacking != sarama.AclOperationAny { // which stands for Read of groups
			ofGroups = append(ofGroups, sarama.AclOperationRead)
		}
		acls := []*sarama.ResourceAcls{allow(sarama.AclResourceCluster, "kafka-cluster", sarama.AclOperationDescribe), allow(sarama.AclResourceGroup, "*", ofGroups...),
			allow(sarama.AclResourceTopic, "*", slices.DeleteFunc(slices.Clone(rights), func(o sarama.AclOperation) bool { return o == lacking })...)}
		func() {
			dir := filepath.Join(t.TempDir(), "kafka")
			require.NoError(t, os.CopyFS(dir, os.DirFS(logDir(path))))
			cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DataDir(dir), kfake.EnableSASL(), kfake.EnableACLs(), kfake.Superuser("PLAIN", "root", "secret"), kfake.User("PLAIN", "ada", "secret"))
			require.NoError(t, err)
			defer cluster.Close()
			asRoot := sarama.NewConfig()
			asRoot.Net.SASL.Enable, asRoot.Net.SASL.User, asRoot.Net.SASL.Password = true, "root", "secret"
			admin, err := sarama.NewClusterAdmin(cluster.ListenAddrs(), asRoot)
			require.NoError(t, err)
			require.NoError(t, errors.Join(admin.CreateACLs(acls), admin.Close()))
			r := openDatabase(t, path)
			r.kafka, err = kafka.New(t.Context(), kafka.Config{Brokers: cluster.ListenAddrs(), Partitions: partitions,
				Security: kafka.Security{Protocol: kafka.SASLPlainText, Mechanism: kafka.Plain, Username: "ada", Password: "secret"}})
			require.NoError(t, err)
			defer func() { require.NoError(t, errors.Join(r.kafka.Close(), r.db.Close())) }()
			r.log = r.kafka
			was := r.records()
			_, err = deletion.Run(t.Context(), r.config(gone))
			require.ErrorIs(t, err, deletion.ErrRefused, "%v", lacking)
			require.ErrorContains(t, err, "nothing was changed", "%v", lacking)
			t.Log(lacking, err)
			assert.Equal(t, was, r.records())
			recorded, err := store.Deletions(t.Context(), r.db)
			require.NoError(t, err)
			assert.Empty(t, recorded)
		}()
	}
}
