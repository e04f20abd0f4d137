-- One hot prompt gets every count.

--@ id
uuid '{hot}'

--@ script
{call}
