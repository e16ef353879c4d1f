#include "structure/two_units_look.hpp"

two_units::Sight two_units::second_unit() { return look(); }
