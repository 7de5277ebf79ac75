// SPDX-License-Identifier: Apache-2.0

/// Options of one acquire. The defaults are right for most.
public struct LockOptions: Sendable {
    /// How far a grant must have got before the caller is told of it.
    public typealias Durability = Ringfence.Durability

    /// The name of the holder, for people: 1 to 128 bytes of UTF-8 without control or format characters. Default nil:
    /// the configuration's `owner`.
    public var owner: String?
    /// Whether the lease is renewed at every third of its ttl until it is released. Default true.
    public var renews: Bool
    /// How long the lock may be held: after this time from the request the lease is lost, however often it was renewed.
    /// The limit on a task that hangs. 100 ms to 30 days; default one hour.
    public var maximumHold: Duration
    /// How far a grant must have got before the caller is told of it. Default ``Durability/primary``.
    public var durability: Durability

    /// Options of one acquire. The acquire checks them.
    public init(
        owner: String? = nil, renews: Bool = true, maximumHold: Duration = .seconds(3600),
        durability: Durability = .primary
    ) {
        self.owner = owner
        self.renews = renews
        self.maximumHold = maximumHold
        self.durability = durability
    }
}
