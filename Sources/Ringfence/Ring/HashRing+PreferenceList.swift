// SPDX-License-Identifier: Apache-2.0
//
// A list of ids that is not an array: up to eight members it holds numbers in place, so that asking for a list
// allocates nothing, and an id is fetched when it is looked at.

import RingfenceCore

extension HashRing {
    /// The ids of the members that hold the copies of a key, the owner first.
    ///
    /// A collection of `String`; `Array(list)` makes an array of it.
    public struct PreferenceList: RandomAccessCollection, Sendable, CustomStringConvertible {
        let ring: Ring
        let slots: RingPreference

        /// Always 0.
        public var startIndex: Int { 0 }
        /// The number of members.
        public var endIndex: Int { slots.count }

        /// The id of a member.
        public subscript(_ place: Int) -> String {
            precondition(place >= 0 && place < slots.count, "place \(place) of \(slots.count)")
            return ring.id(place, of: slots)
        }

        /// The place in ``HashRing/members`` of a member of the list.
        public func memberIndex(_ place: Int) -> Int {
            precondition(place >= 0 && place < slots.count, "place \(place) of \(slots.count)")
            return ring.index(place, of: slots)
        }

        /// The ids in brackets.
        public var description: String { Array(self).description }
    }
}
