-- Who may call and read what. The last thing that runs at every install and update.

-- PostgreSQL lets everyone call a new function; here nobody may who was not granted it.
revoke execute on all functions in schema machserial from public;
