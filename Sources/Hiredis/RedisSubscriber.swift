package import Logging
import NIOCore
package final class RedisSubscriber: Sendable {
    package enum Event: Sendable { case subscribed(first: Bool), message(channel: String, payload: [UInt8]), disconnected(RedisError) }
    package init(_ configuration: RedisConfiguration, channels: [String], logger: Logger, onEvent: @escaping @Sendable (Event) -> Void) {}
    package func start() {}
    package func close() async {}
}
