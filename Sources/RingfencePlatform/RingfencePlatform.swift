// SPDX-License-Identifier: Apache-2.0
//
// The system's C library under one name, whichever it is. It bears the product's name because a program that links the
// library has all its modules.

#if canImport(Glibc)
    @_exported public import Glibc
#elseif canImport(Musl)
    @_exported public import Musl
#else
    @_exported public import Darwin
#endif
