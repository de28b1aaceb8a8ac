-- The application's role. The copy moves tables and their rights, not roles.
create role app login password 'app';
