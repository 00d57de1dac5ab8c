import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonGenerator;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.Properties;
import java.util.UUID;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueBytesStoreSupplier;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/**
 * Workload WA with the processor API of Kafka Streams: an inventory that decides commands.
 *
 * <p>One store has the stock of each product, one the reservations by product and order, one the ids of commands that were decided. The
 * argument names the kind of stores: {@code rocksdb} or {@code memory}.
 */
public final class Reservations {
  private static final JsonFactory JSON = new JsonFactory();

  private static final class Command {
    String id, type, sku, orderId;
    long quantity, eventTime, createdNs;
  }

  /** Of a product: what is in stock, what of it is reserved, and how many events there were. */
  private record Stock(long onHand, long reserved, long version) {
    static final Stock NONE = new Stock(0, 0, 0);
  }

  private static Command parse(byte[] bytes) {
    Command command = new Command();
    try (JsonParser json = JSON.createParser(bytes)) {
      if (json.nextToken() != JsonToken.START_OBJECT) {
        throw new IOException("not a JSON object");
      }
      // What a command is about is a member `data` of it; no two members have one name.
      for (JsonToken token = json.nextToken(); token != null; token = json.nextToken()) {
        if (token != JsonToken.FIELD_NAME) {
          continue;
        }
        String name = json.currentName();
        json.nextToken();
        switch (name) {
          case "data" -> {}
          case "id" -> command.id = json.getText();
          case "type" -> command.type = json.getText();
          case "sku" -> command.sku = json.getText();
          case "order_id" -> command.orderId = json.getText();
          case "quantity" -> command.quantity = json.getLongValue();
          case "event_time" -> command.eventTime = json.getLongValue();
          case "created_ns" -> command.createdNs = json.getLongValue();
          default -> json.skipChildren();
        }
      }
      return command;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  /** An event in its envelope, or a rejection, which has a reason instead of a quantity and a sequence. */
  private static byte[] event(Command of, String type, long quantity, long sequence, String reason) {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream(480);
    try (JsonGenerator json = JSON.createGenerator(bytes)) {
      json.writeStartObject();
      json.writeStringField("eventId", UUID.nameUUIDFromBytes(of.id.getBytes(StandardCharsets.UTF_8)).toString());
      json.writeStringField("eventType", type);
      json.writeStringField("eventVersion", "1.0");
      json.writeStringField("timestamp", Instant.ofEpochMilli(of.eventTime).toString());
      json.writeStringField("source", "stock");
      json.writeObjectFieldStart("data");
      json.writeStringField("sku", of.sku);
      json.writeStringField("order_id", of.orderId);
      if (reason == null) {
        json.writeNumberField("quantity", quantity);
      } else {
        json.writeStringField("reason", reason);
        json.writeStringField("command", of.type);
      }
      json.writeNumberField("created_ns", of.createdNs);
      json.writeEndObject();
      json.writeObjectFieldStart("metadata");
      json.writeStringField("correlationId", of.id);
      json.writeStringField("causationId", of.id);
      if (reason == null) {
        json.writeNumberField("sequence", sequence);
      }
      json.writeEndObject();
      json.writeEndObject();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return bytes.toByteArray();
  }

  private static Serde<Stock> stocks() {
    return Serdes.serdeFrom(
        (topic, stock) ->
            stock == null ? null : ByteBuffer.allocate(24).putLong(stock.onHand).putLong(stock.reserved).putLong(stock.version).array(),
        (topic, bytes) -> {
          if (bytes == null) {
            return null;
          }
          ByteBuffer buffer = ByteBuffer.wrap(bytes);
          return new Stock(buffer.getLong(), buffer.getLong(), buffer.getLong());
        });
  }

  /** Decides commands. All of a product are in one partition. */
  private static final class Inventory implements Processor<String, Command, String, byte[]> {
    private ProcessorContext<String, byte[]> context;
    private KeyValueStore<String, Stock> stocks;
    private KeyValueStore<String, Long> reservations;
    private KeyValueStore<String, Long> decided;

    @Override
    public void init(ProcessorContext<String, byte[]> context) {
      this.context = context;
      stocks = context.getStateStore("stocks");
      reservations = context.getStateStore("reservations");
      decided = context.getStateStore("decided");
    }

    @Override
    public void process(Record<String, Command> record) {
      Command command = record.value();
      if (decided.putIfAbsent(command.id, command.eventTime) != null) {
        return;
      }
      Stock found = stocks.get(command.sku);
      Stock stock = found == null ? Stock.NONE : found;
      String order = command.sku + "|" + command.orderId;
      switch (command.type) {
        case "inventory.receive" ->
            emit(record, "inventory.received", command.quantity, new Stock(stock.onHand + command.quantity, stock.reserved, stock.version + 1));
        case "inventory.reserve" -> {
          if (stock.onHand - stock.reserved < command.quantity) {
            reject(record, "out_of_stock");
            return;
          }
          reservations.put(order, command.quantity);
          emit(record, "inventory.reserved", command.quantity, new Stock(stock.onHand, stock.reserved + command.quantity, stock.version + 1));
        }
        case "inventory.confirm" -> {
          Long quantity = reservations.delete(order);
          if (quantity == null) {
            reject(record, "unknown_order");
            return;
          }
          emit(record, "inventory.confirmed", quantity, new Stock(stock.onHand - quantity, stock.reserved - quantity, stock.version + 1));
        }
        case "inventory.release" -> {
          Long quantity = reservations.delete(order);
          if (quantity == null) {
            reject(record, "unknown_order");
            return;
          }
          emit(record, "inventory.released", quantity, new Stock(stock.onHand, stock.reserved - quantity, stock.version + 1));
        }
        default -> reject(record, "unknown_command");
      }
    }

    private void emit(Record<String, Command> record, String type, long quantity, Stock stock) {
      if (stock.onHand - stock.reserved < 0) {
        reject(record, "not_oversold");
        return;
      }
      stocks.put(record.value().sku, stock);
      context.forward(record.withValue(event(record.value(), type, quantity, stock.version, null)), "events");
    }

    private void reject(Record<String, Command> record, String reason) {
      context.forward(record.withValue(event(record.value(), record.value().type + ".rejected", 0, 0, reason)), "rejected");
    }
  }

  private static <V> StoreBuilder<KeyValueStore<String, V>> store(String name, Serde<V> values, String kind) {
    KeyValueBytesStoreSupplier supplier = kind.equals("memory") ? Stores.inMemoryKeyValueStore(name) : Stores.persistentKeyValueStore(name);
    return Stores.keyValueStoreBuilder(supplier, Serdes.String(), values);
  }

  public static void main(String[] args) {
    String kind = args.length == 0 ? "rocksdb" : args[0];
    Properties settings = OrderPayments.settings(kind);
    Topology topology = new Topology();
    topology.addSource("commands", Serdes.String().deserializer(), (topic, bytes) -> parse(bytes), OrderPayments.env("BENCH_INPUT"));
    topology.addProcessor("stock", Inventory::new, "commands");
    topology.addStateStore(store("stocks", stocks(), kind), "stock");
    topology.addStateStore(store("reservations", Serdes.Long(), kind), "stock");
    topology.addStateStore(store("decided", Serdes.Long(), kind), "stock");
    topology.addSink("events", OrderPayments.env("BENCH_OUTPUT"), Serdes.String().serializer(), Serdes.ByteArray().serializer(), "stock");
    topology.addSink("rejected", OrderPayments.env("BENCH_REJECTED"), Serdes.String().serializer(), Serdes.ByteArray().serializer(), "stock");

    OrderPayments.run(topology, settings);
  }
}
