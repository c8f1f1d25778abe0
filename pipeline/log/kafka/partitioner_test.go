package kafka

import "testing"

// The hashes are those of Kafka's own test, org.apache.kafka.common.utils.UtilsTest.
func TestMurmur2(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]int32{
		"21":                         -973932308,
		"foobar":                     -790332482,
		"a-little-bit-long-string":   -985981536,
		"a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(murmur2([]byte(key))); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", key, got, want)
		}
	}
}

func TestPartitionClearsTheSign(t *testing.T) {
	t.Parallel()
	// toPositive(-973932308) is 1173551340, not 973932308.
	if got := Partition([]byte("21"), 7); got != 1173551340%7 {
		t.Errorf("partition of 21 among 7 is %d", got)
	}
	for partitions := int32(1); partitions < 50; partitions++ {
		for _, key := range []string{"", "a", "ab", "abc", "abcd", "simulated/AAPL"} {
			if got := Partition([]byte(key), partitions); got < 0 || got >= partitions {
				t.Errorf("partition of %q among %d is %d", key, partitions, got)
			}
		}
	}
}
