import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.management.OperatingSystemMXBean;
import java.lang.management.ManagementFactory;
import java.math.BigDecimal;
import java.math.RoundingMode;
import java.nio.file.Files;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.UUID;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * The moving average of five prices by Kafka Streams, exactly once, in the same
 * broker as pricemill: first of a topic that is full, then at a steady rate. Each
 * event is a price as JSON of the size of pricemill's; each gives one average, an
 * exact decimal, on another topic. What is counted are averages that a consumer
 * sees which reads committed records only.
 *
 * Usage: Averages BROKERS EVENTS SYMBOLS PARTITIONS RATE
 */
public final class Averages {
  private static final int WINDOW = 5;
  private static final ObjectMapper JSON = new ObjectMapper();

  /** Keeps the last prices of each symbol, and forwards their average. */
  private static final class Fold implements Processor<String, String, String, String> {
    private ProcessorContext<String, String> context;
    private KeyValueStore<String, String> windows;

    @Override
    public void init(ProcessorContext<String, String> context) {
      this.context = context;
      this.windows = context.getStateStore("windows");
    }

    @Override
    public void process(Record<String, String> record) {
      try {
        JsonNode event = JSON.readTree(record.value());
        String kept = windows.get(record.key());
        List<String> prices = kept == null ? new ArrayList<>() : new ArrayList<>(Arrays.asList(kept.split(" ")));
        prices.add(event.get("price").asText());
        if (prices.size() > WINDOW) {
          prices.remove(0);
        }
        BigDecimal sum = BigDecimal.ZERO;
        for (String price : prices) {
          sum = sum.add(new BigDecimal(price));
        }
        windows.put(record.key(), String.join(" ", prices));
        BigDecimal average = sum.divide(BigDecimal.valueOf(prices.size()), 18, RoundingMode.HALF_EVEN);
        context.forward(record.withValue(event.get("sent").asText() + " " + average.toPlainString()));
      } catch (java.io.IOException e) {
        throw new java.io.UncheckedIOException(e);
      }
    }
  }

  private final String brokers;
  private final int symbols;
  private final int partitions;
  private final String run = UUID.randomUUID().toString().substring(0, 8);
  private final String prices = "peer-prices-" + run;
  private final String averages = "peer-averages-" + run;

  private Averages(String brokers, int symbols, int partitions) {
    this.brokers = brokers;
    this.symbols = symbols;
    this.partitions = partitions;
  }

  public static void main(String[] args) throws Exception {
    Averages a = new Averages(args[0], Integer.parseInt(args[2]), Integer.parseInt(args[3]));
    a.measure(Integer.parseInt(args[1]), Integer.parseInt(args[4]));
  }

  private void measure(int events, int rate) throws Exception {
    try (Admin admin = Admin.create(Map.of("bootstrap.servers", brokers))) {
      admin.createTopics(List.of(new NewTopic(prices, partitions, (short) 1), new NewTopic(averages, partitions, (short) 1))).all().get();
      try {
        try (KafkaProducer<String, String> producer = producer()) {
          for (int i = 0; i < events; i++) {
            producer.send(price(i));
          }
        }
        double cpu = cpuSeconds();
        long began = System.nanoTime();
        KafkaStreams streams = new KafkaStreams(topology(), settings());
        streams.start();
        try (KafkaConsumer<String, String> consumer = consumer()) {
          long seen = 0;
          while (seen < events) {
            seen += consumer.poll(Duration.ofSeconds(1)).count();
          }
          double seconds = (System.nanoTime() - began) / 1e9;
          System.out.printf(Locale.ROOT, "rebuild: %.0f events/s, %.1f s of processor time per million events%n",
              events / seconds, (cpuSeconds() - cpu) * 1e6 / events);
          atRate(rate, consumer);
        } finally {
          streams.close(Duration.ofSeconds(30));
        }
      } finally {
        admin.deleteTopics(List.of(prices, averages)).all().get();
      }
    }
  }

  /** Sends for twenty seconds, and takes the times of the second half. */
  private void atRate(int rate, KafkaConsumer<String, String> consumer) throws Exception {
    final int seconds = 20;
    int events = rate * seconds;
    long began = System.nanoTime();
    double cpu = cpuSeconds();
    Thread sender = new Thread(() -> {
      try (KafkaProducer<String, String> producer = producer()) {
        for (int i = 0; i < events; i++) {
          long due = began + (long) i * 1_000_000_000L / rate;
          long wait = due - System.nanoTime();
          if (wait > 0) {
            java.util.concurrent.locks.LockSupport.parkNanos(wait);
          }
          producer.send(price(i, due));
        }
      }
    });
    sender.start();
    List<Long> latencies = new ArrayList<>();
    int seen = 0;
    while (seen < events) {
      for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofSeconds(1))) {
        long sent = Long.parseLong(record.value().substring(0, record.value().indexOf(' ')));
        if (++seen > events / 2) {
          latencies.add(System.nanoTime() - sent);
        }
      }
    }
    sender.join();
    latencies.sort(null);
    System.out.printf(Locale.ROOT, "at %d events/s: p50 %.1f ms, p99 %.1f ms, %.1f s of processor time per 100,000 events%n",
        rate, latencies.get(latencies.size() / 2) / 1e6, latencies.get(latencies.size() * 99 / 100) / 1e6,
        (cpuSeconds() - cpu) * 1e5 / events);
  }

  private ProducerRecord<String, String> price(int i) {
    return price(i, 0);
  }

  private ProducerRecord<String, String> price(int i, long sent) {
    String symbol = "SYM" + i % symbols;
    String value = String.format(Locale.ROOT,
        "{\"event_id\":\"%s-%012d\",\"symbol\":\"%s\",\"price\":\"%d.%02d\",\"timestamp\":\"2026-01-01T00:00:00.%06dZ\","
            + "\"source\":\"peer\",\"raw_response_id\":\"00000000-0000-0000-0000-%012d\",\"sent\":\"%d\"}",
        run, i, symbol, 100 + i % 37, i % 100, i % 1_000_000, i, sent);
    return new ProducerRecord<>(prices, symbol, value);
  }

  private org.apache.kafka.streams.Topology topology() {
    StreamsBuilder builder = new StreamsBuilder();
    builder.addStateStore(Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore("windows"), Serdes.String(), Serdes.String()));
    builder.<String, String>stream(prices).process(Fold::new, "windows").to(averages);
    return builder.build();
  }

  private Properties settings() throws java.io.IOException {
    Properties p = new Properties();
    p.put("bootstrap.servers", brokers);
    p.put("application.id", "peer-" + run);
    p.put("processing.guarantee", "exactly_once_v2");
    p.put("commit.interval.ms", 10);
    p.put("num.stream.threads", 2);
    p.put("replication.factor", 1);
    p.put("auto.offset.reset", "earliest");
    p.put("default.key.serde", Serdes.StringSerde.class);
    p.put("default.value.serde", Serdes.StringSerde.class);
    p.put("state.dir", Files.createTempDirectory("peer").toString());
    return p;
  }

  private KafkaProducer<String, String> producer() {
    return new KafkaProducer<>(Map.of("bootstrap.servers", brokers, "acks", "all", "linger.ms", 2, "batch.size", 65536),
        new StringSerializer(), new StringSerializer());
  }

  private KafkaConsumer<String, String> consumer() {
    KafkaConsumer<String, String> consumer = new KafkaConsumer<>(
        Map.of("bootstrap.servers", brokers, "isolation.level", "read_committed", "auto.offset.reset", "earliest",
            "enable.auto.commit", false, "max.poll.records", 5000),
        new StringDeserializer(), new StringDeserializer());
    List<TopicPartition> all = new ArrayList<>();
    for (int i = 0; i < partitions; i++) {
      all.add(new TopicPartition(averages, i));
    }
    consumer.assign(all);
    return consumer;
  }

  private static double cpuSeconds() {
    return ((OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime() / 1e9;
  }
}
