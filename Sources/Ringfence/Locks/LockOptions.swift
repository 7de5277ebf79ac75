// SPDX-License-Identifier: Apache-2.0

/// Options of one acquire. The defaults are right for most.
public struct LockOptions: Sendable {
    /// How far a grant must have got before the caller is told of it.
    public typealias Durability = Ringfence.Durability

    /// Who holds, for people; nil for the configuration's `owner`. 1 to 128 bytes, no control or format characters.
    public var owner: String?
    /// Whether the lease is renewed at every third of its ttl until it is released.
    public var renews: Bool
    /// The lease is lost after this time however often it was renewed: the limit on a task that hangs. At most 30 days.
    public var maximumHold: Duration
    /// How far a grant must have got before the caller is told of it.
    public var durability: Durability

    /// Options of one acquire.
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
