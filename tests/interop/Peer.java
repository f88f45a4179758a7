import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.retry.ExponentialBackoffRetry;
import org.apache.curator.x.discovery.ServiceDiscovery;
import org.apache.curator.x.discovery.ServiceDiscoveryBuilder;
import org.apache.curator.x.discovery.ServiceInstance;
import org.apache.curator.x.discovery.ServiceProvider;
import org.apache.curator.x.discovery.ServiceType;
import org.apache.curator.x.discovery.UriSpec;
import org.apache.curator.x.discovery.details.JsonInstanceSerializer;
import org.springframework.cloud.client.DefaultServiceInstance;
import org.springframework.cloud.zookeeper.discovery.ZookeeperDiscoveryClient;
import org.springframework.cloud.zookeeper.discovery.ZookeeperInstance;

/** A JVM service beside configsvc. One JSON command a line on standard input, one JSON answer a line on standard output. */
public class Peer {
    private static final ObjectMapper JSON = new ObjectMapper();

    private final ServiceDiscovery<Map> maps;
    private final ServiceDiscovery<ZookeeperInstance> springs;

    private Peer(CuratorFramework client, String base) throws Exception {
        maps = ServiceDiscoveryBuilder.builder(Map.class)
                .client(client)
                .basePath(base)
                .serializer(new JsonInstanceSerializer<>(Map.class, false))
                .build();
        // With the serializer that Spring's auto-configuration has.
        springs = ServiceDiscoveryBuilder.builder(ZookeeperInstance.class)
                .client(client)
                .basePath(base)
                .build();
        maps.start();
        springs.start();
    }

    public static void main(String[] arguments) throws Exception {
        CuratorFramework client =
                CuratorFrameworkFactory.newClient(arguments[0], 10_000, 10_000, new ExponentialBackoffRetry(100, 5));
        client.start();
        Peer peer = new Peer(client, arguments[1]);
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            JsonNode command = JSON.readTree(line);
            Object answer;
            try {
                answer = switch (command.get("do").asText()) {
                    case "show" -> peer.show(command);
                    case "hide" -> peer.hide(command);
                    case "read" -> peer.read(command.get("service").asText());
                    default -> throw new IllegalArgumentException(line);
                };
            } catch (Exception error) {
                answer = Map.of("error", error.toString());
            }
            System.out.println(JSON.writeValueAsString(answer));
        }
        // The session ends with the connection, and the nodes with it.
        client.close();
    }

    private Object show(JsonNode command) throws Exception {
        boolean spring = command.get("as").asText().equals("spring");
        String service = command.get("service").asText(), id = command.get("id").asText();
        UriSpec spec = command.hasNonNull("uriSpec") ? new UriSpec(command.get("uriSpec").asText()) : null;
        Map<String, Object> payload =
                command.hasNonNull("payload") ? JSON.convertValue(command.get("payload"), HashMap.class) : null;
        String address = command.get("address").asText();
        Integer port = number(command, "port"), sslPort = number(command, "sslPort");
        long at = command.get("at").asLong();
        if (spring) {
            Map<String, String> metadata = new HashMap<>();
            payload.forEach((name, value) -> metadata.put(name, String.valueOf(value)));
            ServiceInstance<ZookeeperInstance> instance = new ServiceInstance<>(
                    service, id, address, port, sslPort, new ZookeeperInstance(id, service, metadata), at,
                    ServiceType.DYNAMIC, spec);
            springs.registerService(instance);
            return Map.of("uri", instance.buildUriSpec());
        }
        boolean enabled = !command.hasNonNull("enabled") || command.get("enabled").asBoolean();
        ServiceInstance<Map> instance = new ServiceInstance<>(
                service, id, address, port, sslPort, payload, at, ServiceType.DYNAMIC, spec, enabled);
        maps.registerService(instance);
        return Map.of("uri", instance.buildUriSpec());
    }

    private Object hide(JsonNode command) throws Exception {
        ServiceInstance<Map> instance = ServiceInstance.<Map>builder()
                .name(command.get("service").asText())
                .id(command.get("id").asText())
                .build();
        maps.unregisterService(instance);
        return Map.of();
    }

    private Object read(String service) throws Exception {
        List<Object> read = new ArrayList<>(), seen = new ArrayList<>(), provided = new ArrayList<>();
        for (ServiceInstance<Map> instance : maps.queryForInstances(service)) {
            Map<String, Object> found = new HashMap<>();
            found.put("id", instance.getId());
            found.put("uri", instance.buildUriSpec());
            found.put("enabled", instance.isEnabled());
            found.put("at", instance.getRegistrationTimeUTC());
            found.put("payload", instance.getPayload());
            read.add(found);
        }
        for (var instance : new ZookeeperDiscoveryClient(springs, null, null).getInstances(service)) {
            Map<String, Object> found = new HashMap<>();
            found.put("id", instance.getInstanceId());
            found.put("uri", instance.getUri().toString());
            // What Spring's load balancer puts together.
            found.put("hostAndPort", DefaultServiceInstance.getUri(instance).toString());
            found.put("secure", instance.isSecure());
            seen.add(found);
        }
        try (ServiceProvider<Map> provider =
                maps.serviceProviderBuilder().serviceName(service).build()) {
            provider.start();
            for (ServiceInstance<Map> instance : provider.getAllInstances()) {
                provided.add(instance.getId());
            }
        }
        return Map.of("curator", read, "spring", seen, "provided", provided);
    }

    private static Integer number(JsonNode command, String name) {
        return command.hasNonNull(name) ? command.get(name).asInt() : null;
    }
}
