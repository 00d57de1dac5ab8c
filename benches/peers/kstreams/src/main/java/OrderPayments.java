import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.JoinWindows;
import org.apache.kafka.streams.kstream.KStream;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.StreamJoined;
import org.apache.kafka.streams.state.BuiltInDslStoreSuppliers;

/**
 * Workload WJ with the stream-stream join of Kafka Streams: every payment within ten minutes of event time after its order.
 *
 * <p>Written for speed: Jackson's streaming parser instead of data binding, and in the stores only what the result needs, as
 * bytes. The argument names the stores: {@code rocksdb} or {@code memory}.
 */
public final class OrderPayments {
  /** As in wj.yaml: how long after its order a payment is joined, and how far event times are out of order. */
  private static final Duration WITHIN = Duration.ofMinutes(10);

  private static final Duration OUT_OF_ORDER = Duration.ofMillis(500);

  private static final JsonFactory JSON = new JsonFactory();

  /** The members that all programs of the benchmark read from an order. */
  private static final class Order {
    String orderId, productId, customerId;
    double amount;
    int quantity;
    long eventTime, createdNs;
  }

  private static final class Payment {
    String paymentId, orderId, method;
    long eventTime;
  }

  private record Paid(String orderId, String productId, double amount, String paymentId, String method) {}

  private interface Members<T> {
    /** The parser is at the value of the member. Returns false if the member is not one that is read. */
    boolean read(T into, String name, JsonParser json) throws IOException;
  }

  private static <T> T parse(byte[] bytes, T into, Members<T> members) {
    try (JsonParser json = JSON.createParser(bytes)) {
      if (json.nextToken() != JsonToken.START_OBJECT) {
        throw new IOException("not a JSON object");
      }
      while (json.nextToken() == JsonToken.FIELD_NAME) {
        String name = json.currentName();
        json.nextToken();
        if (!members.read(into, name, json)) {
          json.skipChildren();
        }
      }
      return into;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static boolean order(Order order, String name, JsonParser json) throws IOException {
    switch (name) {
      case "order_id" -> order.orderId = json.getText();
      case "product_id" -> order.productId = json.getText();
      case "customer_id" -> order.customerId = json.getText();
      case "amount" -> order.amount = json.getDoubleValue();
      case "quantity" -> order.quantity = json.getIntValue();
      case "event_time" -> order.eventTime = json.getLongValue();
      case "created_ns" -> order.createdNs = json.getLongValue();
      default -> {
        return false;
      }
    }
    return true;
  }

  private static boolean payment(Payment payment, String name, JsonParser json) throws IOException {
    switch (name) {
      case "payment_id" -> payment.paymentId = json.getText();
      case "order_id" -> payment.orderId = json.getText();
      case "method" -> payment.method = json.getText();
      case "event_time" -> payment.eventTime = json.getLongValue();
      default -> {
        return false;
      }
    }
    return true;
  }

  private static byte[] json(Paid paid) {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream(160);
    try (JsonGenerator json = JSON.createGenerator(bytes)) {
      json.writeStartObject();
      json.writeStringField("order_id", paid.orderId);
      json.writeStringField("product_id", paid.productId);
      json.writeNumberField("amount", paid.amount);
      json.writeStringField("payment_id", paid.paymentId);
      json.writeStringField("method", paid.method);
      json.writeEndObject();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return bytes.toByteArray();
  }

  /** What stays of an order in its store: the amount and the product. The key is the order's id. */
  private static Serde<Order> storedOrders() {
    return Serdes.serdeFrom(
        (topic, order) -> {
          byte[] product = order.productId.getBytes(StandardCharsets.UTF_8);
          return ByteBuffer.allocate(Double.BYTES + product.length).putDouble(order.amount).put(product).array();
        },
        (topic, bytes) -> {
          Order order = new Order();
          order.amount = ByteBuffer.wrap(bytes).getDouble();
          order.productId = new String(bytes, Double.BYTES, bytes.length - Double.BYTES, StandardCharsets.UTF_8);
          return order;
        });
  }

  /** What stays of a payment: its id and the method, behind the length of the id. */
  private static Serde<Payment> storedPayments() {
    return Serdes.serdeFrom(
        (topic, payment) -> {
          byte[] id = payment.paymentId.getBytes(StandardCharsets.UTF_8);
          byte[] method = payment.method.getBytes(StandardCharsets.UTF_8);
          return ByteBuffer.allocate(Integer.BYTES + id.length + method.length).putInt(id.length).put(id).put(method).array();
        },
        (topic, bytes) -> {
          int id = ByteBuffer.wrap(bytes).getInt();
          Payment payment = new Payment();
          payment.paymentId = new String(bytes, Integer.BYTES, id, StandardCharsets.UTF_8);
          int at = Integer.BYTES + id;
          payment.method = new String(bytes, at, bytes.length - at, StandardCharsets.UTF_8);
          return payment;
        });
  }

  private static <T> Serde<T> readOnly(java.util.function.Function<byte[], T> read) {
    return Serdes.serdeFrom(
        (topic, value) -> {
          throw new UnsupportedOperationException("only read");
        },
        (topic, bytes) -> read.apply(bytes));
  }

  static Properties settings(String stores) {
    Properties p = new Properties();
    p.put(StreamsConfig.APPLICATION_ID_CONFIG, env("BENCH_GROUP"));
    p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, env("BENCH_BOOTSTRAP"));
    p.put(StreamsConfig.STATE_DIR_CONFIG, env("BENCH_STATE"));
    p.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, env("BENCH_COMMIT_MS"));
    p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
    p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 2);
    p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
    Class<?> suppliers =
        switch (stores) {
          case "rocksdb" -> BuiltInDslStoreSuppliers.RocksDBDslStoreSuppliers.class;
          case "memory" -> BuiltInDslStoreSuppliers.InMemoryDslStoreSuppliers.class;
          default -> throw new IllegalArgumentException("rocksdb or memory, not " + stores);
        };
    p.put(StreamsConfig.DSL_STORE_SUPPLIERS_CLASS_CONFIG, suppliers);
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.MAX_POLL_RECORDS_CONFIG), 2_000);
    p.put(StreamsConfig.producerPrefix(ProducerConfig.COMPRESSION_TYPE_CONFIG), "lz4");
    p.put(StreamsConfig.producerPrefix(ProducerConfig.LINGER_MS_CONFIG), 20);
    p.put(StreamsConfig.producerPrefix(ProducerConfig.BATCH_SIZE_CONFIG), 262_144);
    return p;
  }

  static String env(String name) {
    String value = System.getenv(name);
    if (value == null) {
      throw new IllegalArgumentException("the variable " + name + " is missing");
    }
    return value;
  }

  public static void main(String[] args) {
    Properties settings = settings(args.length == 0 ? "rocksdb" : args[0]);
    StreamsBuilder builder = new StreamsBuilder();
    KStream<String, Order> orders =
        builder.stream(
            env("BENCH_INPUT"),
            Consumed.with(Serdes.String(), readOnly(bytes -> parse(bytes, new Order(), OrderPayments::order)))
                .withTimestampExtractor((record, previous) -> ((Order) record.value()).eventTime));
    KStream<String, Payment> payments =
        builder.stream(
            env("BENCH_PAYMENTS"),
            Consumed.with(Serdes.String(), readOnly(bytes -> parse(bytes, new Payment(), OrderPayments::payment)))
                .withTimestampExtractor((record, previous) -> ((Payment) record.value()).eventTime));
    // A payment is never before its order. The store of an order lets go of it after the window and the grace period, which is as
    // long as rows are out of order: no pair is lost.
    JoinWindows within = JoinWindows.ofTimeDifferenceAndGrace(WITHIN, OUT_OF_ORDER).before(Duration.ZERO);
    Serde<Paid> written = Serdes.serdeFrom((topic, paid) -> json(paid), (topic, bytes) -> null);
    orders
        .join(
            payments,
            (id, order, payment) -> new Paid(id, order.productId, order.amount, payment.paymentId, payment.method),
            within,
            StreamJoined.with(Serdes.String(), storedOrders(), storedPayments()).withName("paid").withStoreName("paid"))
        .to(env("BENCH_OUTPUT"), Produced.with(Serdes.String(), written));

    run(builder.build(settings), settings);
  }

  /** Runs until the process is told to stop, or a thread fails. */
  static void run(Topology topology, Properties settings) {
    KafkaStreams streams = new KafkaStreams(topology, settings);
    streams.setUncaughtExceptionHandler(
        e -> {
          e.printStackTrace();
          return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
    Runtime.getRuntime().addShutdownHook(new Thread(() -> streams.close(Duration.ofSeconds(10))));
    streams.start();
  }
}
