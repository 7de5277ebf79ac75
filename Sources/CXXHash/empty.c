// SPDX-License-Identifier: Apache-2.0
//
// All of CXXHash is in its header; SwiftPM wants a source file of every target.

#include "CXXHash.h"
