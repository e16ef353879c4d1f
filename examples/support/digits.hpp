// Handwritten digits for the examples: where they come from (MNIST, optdigits, our own pen) and
// what is done to them.
#pragma once

#include "digit_set.hpp"
#include "digit_shift.hpp"
#include "drawn_digits.hpp"
#include "idx.hpp"
#include "optdigits.hpp"
