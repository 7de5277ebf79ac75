// SPDX-License-Identifier: Apache-2.0
//
// How far two clocks may run apart without harm, defined once.
//
// A lease is counted by two clocks: its holder's, which is monotonic, and Redis'. They need not agree on the time, but
// on how long a second is. Quartz does that to 0.01 %. NTP does not: it corrects a clock by letting it run faster or
// slower (slewing), chrony by up to 8.33 % unless told otherwise. So the holder takes this part off what it asked for,
// and a process that must wait for the end adds it: where only one of the two is done, the clocks may run apart by this
// part in all, the corrections of both machines together.
//
// It is not a setting of a client: each side relies on the other to allow for as much. To change it, change it here, in
// all programs of a namespace at once. `ringfence doctor` measures by it.

package enum ClockDrift {
    /// One part of so many: 1 %.
    package static let part: Nanos = 100
    /// The same in millionths.
    package static let partsPerMillion = 1_000_000 / Double(part)
    /// What each machine may correct its clock by, in millionths (chrony's `maxslewrate`): two that correct against
    /// each other leave a fifth of the allowance to the clocks themselves.
    package static let slewPartsPerMillion = 4_000

    /// `length` as its holder counts on it.
    package static func shortened(_ length: Nanos) -> Nanos { length - length / part }
    /// `length` as counted by a process that must wait for its end.
    package static func lengthened(_ length: Nanos) -> Nanos { length.adding(length / part) }
}
